"""The gateway beside its peers, in one run on one machine: CPU per request, memory, time to the first answer."""
