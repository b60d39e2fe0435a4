"""The log on a real Kafka, in figures: burst to decision, folding, recording, a broker that is away, and what is lost when."""
