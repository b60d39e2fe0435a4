"""What puts load on proxies where wrk cannot, and models that behave as a row needs them to: each a program of its own."""
