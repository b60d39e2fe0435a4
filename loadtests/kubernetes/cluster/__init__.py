"""A real Kubernetes of plain processes: control plane, nodes with real containers, KWOK's make-believe nodes."""
