"""What Kubernetes as compute promises, measured: from zero on a real node, and a fleet on make-believe nodes."""
