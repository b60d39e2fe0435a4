"""The user's own Kubernetes cluster as compute. Nothing is imported here: the pods' own programs live in this package
too, and must not pay for the client library.
"""
