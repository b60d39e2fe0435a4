"""Apache Kafka for tests, the demo and benches: its files, and what its listeners ask of clients."""
