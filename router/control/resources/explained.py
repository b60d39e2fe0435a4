"""What `kubectl explain` says of each key: dotted path in the spec → one or two sentences. Pure.

A path ends with `.*` for the values of a map and the items of a list. A test holds that no key is without its words.
"""

from __future__ import annotations

from collections.abc import Mapping

_TAGS = "Free text of one's own, by name."
_SCHEMA = "Address of the schema that the document was written for, as in Azure's samples; without effect here."
_DESCRIPTION = "Free text for people."
_PROPERTIES = "Free text for tools, by name."

ENDPOINT: Mapping[str, str] = {
    "": "An endpoint: one address, and how its traffic is split over its deployments. The keys of Azure's endpoint YAML.",
    "$schema": _SCHEMA,
    "name": "The endpoint's name: the object's own, so it is usually left out.",
    "description": _DESCRIPTION,
    "tags": _TAGS,
    "properties": _PROPERTIES,
    "auth_mode": "How callers prove who they are. Tokens are not available yet: only key.",
    "compute": "azureml:<name> of the attached cluster, which makes it a Kubernetes endpoint. A new one is one by default.",
    "identity": "The managed identity that replicas act as.",
    "identity.type": "system_assigned, or user_assigned with the identities' resource ids.",
    "identity.user_assigned_identities": "Resource ids, as text or as maps with resource_id.",
    "identity.user_assigned_identities.*": "A resource id.",
    "identity.user_assigned_identities.*.resource_id": "A resource id.",
    "traffic": "Deployment -> whole percent of the live traffic. The sum is 0 or 100. What names a deployment that is not"
    " there or not ready yet waits until it is.",
    "mirror_traffic": "One deployment -> whole percent, up to 50, of the live requests that are copied to it. Its answers"
    " are compared and thrown away.",
    "public_network_access": "For managed endpoints only.",
    "tidegate": "What Azure cannot say.",
    "tidegate.mirror": "Any number of deployments to mirror to, instead of mirror_traffic.",
    "tidegate.mirror.*": "One deployment to mirror to.",
    "tidegate.mirror.*.deployment": "Name of the deployment.",
    "tidegate.mirror.*.fraction": "Above 0 and at most 1 of the live requests.",
    "tidegate.stickiness": "What keeps a caller on one deployment.",
    "tidegate.stickiness.by": "Which part of a request tells callers apart.",
    "tidegate.stickiness.name": "The header's or cookie's name; none for client.",
    "tidegate.limits": "What all callers together may ask for, over the gateway workers of one machine.",
    "tidegate.limits.requests_per_second": "Mean rate; more is refused with 429 and Retry-After.",
    "tidegate.limits.burst": "Requests that may come at once after a quiet time; one second's worth by default.",
    "tidegate.limits.concurrent_requests": "Requests in flight and queued, over all deployments.",
    "tidegate.limits.max_body_bytes": "Of one request, instead of the gateway's own limit; 0 = any.",
    "tidegate.priorities": "Classes of requests: a higher one goes first where requests wait.",
    "tidegate.priorities.header": "The header that names a request's class.",
    "tidegate.priorities.classes": "Names of the classes, the highest first.",
    "tidegate.priorities.classes.*": "Name of a class.",
    "tidegate.priorities.default": "Class of requests that name none, or an unknown one; the lowest by default.",
    "tidegate.websocket": "Limits of WebSocket connections.",
    "tidegate.websocket.idle_seconds": "Without a message for this long a connection is closed; 0: never.",
    "tidegate.websocket.ping_seconds": "A side that is silent this long is sent a ping; 0: no pings.",
    "tidegate.websocket.max_message_bytes": "Of one message, as it travels.",
    "tidegate.websocket.max_seconds": "Longest life of a connection; 0: no limit.",
    "tidegate.hosts": "Host names that lead to this endpoint besides <endpoint>.<domain>.",
    "tidegate.server_timing": "Whether answers tell in Server-Timing where their time went.",
}

_PROBE = {
    "initial_delay": "Seconds after the start until the first probe.",
    "period": "Seconds between two probes.",
    "timeout": "Seconds until a probe without an answer has failed.",
    "success_threshold": "Probes in a row that must succeed.",
    "failure_threshold": "Probes in a row that must fail.",
}
_PROBES = {
    "liveness_probe": "A replica that fails it is replaced.",
    "readiness_probe": "A replica gets requests while it succeeds.",
    "startup_probe": "While it has not succeeded, the other probes wait.",
}
_ROUTES = {
    "liveness_route": "Where the server says that it lives.",
    "readiness_route": "Where the server says that it is ready.",
    "scoring_route": "Where requests go; the endpoint's scoring_uri follows it.",
}

DEPLOYMENT: Mapping[str, str] = {
    "": "A deployment: one model version behind an endpoint. The keys of Azure's deployment YAML.",
    "$schema": _SCHEMA,
    "name": "The deployment's name within its endpoint; without it, the object's own.",
    "endpoint_name": "Name of the endpoint. Which of the two is applied first does not matter.",
    "type": "Kind of the endpoint's compute; it follows the endpoint when left out.",
    "description": _DESCRIPTION,
    "tags": _TAGS,
    "properties": _PROPERTIES,
    "model": "The model: a map, or azureml:<name>:<version>.",
    "model.name": "Name of the model.",
    "model.version": "Version of the model.",
    "model.path": "asset:<sha256> or asset:<sha256>/<path in it>, as `tidegate asset upload` prints it, or configmap:<name>.",
    "model.type": "What kind of model it is.",
    "model.flavors": "As MLflow has them.",
    "model.description": _DESCRIPTION,
    "model.tags": _TAGS,
    "model.properties": _PROPERTIES,
    "model_mount_path": "Where the model's files appear in a custom container.",
    "code_configuration": "The scoring code.",
    "code_configuration.code": "The folder: asset:<sha256>, as `tidegate asset upload` prints it, or configmap:<name>.",
    "code_configuration.scoring_script": "The file in that folder that has init() and run().",
    "environment": "What replicas need installed: a map, or azureml:<name>:<version>.",
    "environment.name": "Name of the environment.",
    "environment.version": "Version of the environment.",
    "environment.image": "The container image.",
    "environment.conda_file": "Packages to install: asset:<sha256>/<path in it>, or configmap:<name>/<key>.",
    "environment.build": "A Docker build context that makes the image.",
    "environment.build.path": "The context's folder.",
    "environment.build.dockerfile_path": "The Dockerfile, from there.",
    "environment.inference_config": "Routes of an image's own server.",
    "environment.os_type": "The operating system.",
    "environment.description": _DESCRIPTION,
    "environment.tags": _TAGS,
    "environment.properties": _PROPERTIES,
    "environment_variables": "What replicas find in their environment.",
    "instance_type": "Name of an InstanceType of the cluster, which says nodes, requests and limits.",
    "instance_count": "Number of replicas; `kubectl scale` sets it. Under target_utilization the load decides instead.",
    "app_insights_enabled": "Without effect here.",
    "scale_settings": "How the number of replicas is found.",
    "scale_settings.type": "default: instance_count. target_utilization: the load.",
    "scale_settings.min_instances": "Fewest replicas; 0 allows scale to zero.",
    "scale_settings.max_instances": "Most replicas.",
    "scale_settings.target_utilization_percentage": "Busy and queued requests per replica's concurrency, in percent.",
    "scale_settings.polling_interval": "Seconds between two decisions.",
    "request_settings": "Limits of requests.",
    "request_settings.request_timeout_ms": "Milliseconds until the response must have begun.",
    "request_settings.max_concurrent_requests_per_instance": "Requests that one replica gets at once.",
    "request_settings.max_queue_wait_ms": "Milliseconds that a request may wait for a replica.",
    **_PROBES,
    **{f"{probe}.{key}": words for probe in _PROBES for key, words in _PROBE.items()},
    **{f"environment.inference_config.{route}": words for route, words in _ROUTES.items()},
    **{f"environment.inference_config.{route}.path": "Path of the route." for route in _ROUTES},
    **{f"environment.inference_config.{route}.port": "Port of the route." for route in _ROUTES},
    "data_collector": "Without effect yet.",
    "data_collector.sampling_rate": "Share of the requests, 0 to 1.",
    "data_collector.rolling_rate": "How often a new file begins.",
    "data_collector.collections": "What is collected, by name.",
    "data_collector.collections.*": "One collection.",
    "data_collector.collections.*.enabled": "true or false.",
    "data_collector.collections.*.data": "Where it goes: a map, or a registered name.",
    "data_collector.collections.*.data.name": "Name of the data.",
    "data_collector.collections.*.data.path": "Path of the data.",
    "data_collector.collections.*.data.version": "Version of the data.",
    "data_collector.collections.*.client_id": "The identity that writes.",
    "data_collector.request_logging": "What is kept of requests themselves.",
    "data_collector.request_logging.capture_headers": "Names of headers.",
    "egress_public_network_access": "For managed deployments only.",
    "resources": "What each replica asks for, within its instance type.",
    "resources.requests": "Kubernetes quantities: cpu and memory are needed.",
    "resources.limits": "Kubernetes quantities; GPUs are asked for here only.",
    "tidegate": "What Azure cannot say.",
    "tidegate.backend": "Which backend runs it, when not the cluster's own.",
    "tidegate.min_instances": "Fewest replicas, over the scale settings; 0 allows scale to zero.",
    "tidegate.max_instances": "Most replicas, over the scale settings.",
    "tidegate.idle_seconds": "Without a request for this long it goes to zero, where it may.",
    "tidegate.slo": "What the deployment promises.",
    "tidegate.slo.latency_ms": "Milliseconds.",
    "tidegate.slo.percentile": "Above 0 and below 100.",
    "tidegate.command": "Command line of a custom deployment; {port} stands for the port to listen on.",
    "tidegate.command.*": "One word of it.",
    "tidegate.model_errors": "map: a model's own error answers 424. pass: it is passed on.",
    "tidegate.protocol": "What its replicas are spoken to in: http1, or http2 as gRPC's servers want it.",
    "tidegate.scheme": "https: its replicas speak TLS, verified by the gateway's --replica-ca.",
    "tidegate.server_name": "The name in the replicas' certificates; their address where nothing is said.",
    "tidegate.drain_seconds": "Longest wait for a replica's last request before it is removed.",
    "tidegate.slow_start_seconds": "For how long the share of a new replica grows; 0: it has all of it at once.",
    "tidegate.affinity": "What brings a request to the replica that had its like before.",
    "tidegate.affinity.by": "Which part of a request tells them apart.",
    "tidegate.hedging": "When a request that is slow to be answered is sent to a second replica too.",
    "tidegate.hedging.after_ms": "After so long without the answer's head; either this or percentile.",
    "tidegate.hedging.percentile": "After the time in which so many percent of the answers began lately.",
    "tidegate.hedging.budget_percent": "Most of the requests that may be sent twice.",
    "tidegate.affinity.name": "The header's or cookie's name; none with client or body.",
    "tidegate.affinity.json_field": "With body: the key whose value tells requests apart, such as prompt.",
    "tidegate.affinity.prefix_bytes": "With body: how much of it is looked at; 256 where nothing is said.",
    "tidegate.affinity.bound": "No replica takes a request beyond so many times the mean of requests in flight.",
}


def explain(schema: dict[str, object], words: Mapping[str, str], path: str = "") -> None:
    """Put the words into the schema, which is at `path`, and into everything in it."""
    if path in words:
        schema["description"] = words[path]
    prefix = f"{path}." if path else ""
    properties = schema.get("properties")
    if isinstance(properties, dict):
        for name, inner in properties.items():
            explain(inner, words, prefix + name)
    for key in ("items", "additionalProperties"):
        inner = schema.get(key)
        if isinstance(inner, dict):
            explain(inner, words, f"{prefix}*")
