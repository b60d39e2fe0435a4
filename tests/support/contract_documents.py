"""Documents as users of Azure ML have them: together they hold every key, for managed and for Kubernetes compute."""

from __future__ import annotations

MANAGED_ENDPOINT = """\
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineEndpoint.schema.json
name: fraud-scoring
description: Scores card payments.
tags: {team: payments, cost-center: 4711, audited: true}
properties:
  enforce_access_to_default_secret_stores: enabled
auth_mode: key
identity:
  type: user_assigned
  user_assigned_identities:
    - resource_id: /subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/one
    - /subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/two
traffic:
  Blue: 90
  green: 10
mirror_traffic:
  violet: 10
public_network_access: disabled
tidegate:
  stickiness:
    by: header
    name: x-customer
  limits: {requests_per_second: 50, burst: 100, concurrent_requests: 20, max_body_bytes: 1048576}
  priorities: {header: x-priority, classes: [high, normal, low], default: normal}
  websocket: {idle_seconds: 0, max_message_bytes: 1024}
  hosts: [Fraud.example.com, fraud.internal]
  server_timing: true
"""

KUBERNETES_ENDPOINT = """\
$schema: https://azuremlschemas.azureedge.net/latest/kubernetesOnlineEndpoint.schema.json
name: fraud-on-cluster
compute: azureml:my-cluster
auth_mode: Key
identity:
  type: SystemAssigned
traffic: {}
tidegate:
  mirror:
    - {deployment: Violet, fraction: 0.005}
    - deployment: indigo
      fraction: 1
  stickiness: {by: client}
"""

MANAGED_DEPLOYMENT = """\
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineDeployment.schema.json
name: blue
endpoint_name: fraud-scoring
type: managed
description: The model of last month.
tags: {stage: production}
properties: {owner: ml}
model:
  name: fraud
  version: 3
  path: ../../model-1/model/
  type: custom_model
  description: Gradient boosted trees
  tags: {auc: "0.93"}
  properties: {rows: 1000}
  flavors:
    python_function: {loader_module: mlflow.sklearn}
model_mount_path: /var/models
code_configuration:
  code: ../../model-1/onlinescoring/
  scoring_script: sub/score.py
environment:
  name: fraud-env
  version: "7"
  conda_file: ../../model-1/environment/conda.yaml
  image: mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04:latest
  os_type: linux
  description: sklearn
  tags: {python: "3.11"}
  properties: {}
  inference_config:
    liveness_route: {port: 5001, path: /}
    readiness_route: {port: 5001, path: /ready}
    scoring_route: {port: 5001, path: /v1/models/half_plus_two:predict}
environment_variables:
  WORKER_COUNT: 2
  DEBUG: false
  MODEL_BASE_PATH: /var/azureml-app/azureml-models
instance_type: Standard_DS3_v2
instance_count: 2
app_insights_enabled: true
scale_settings:
  type: default
request_settings:
  request_timeout_ms: 90000
  max_concurrent_requests_per_instance: 4
  max_queue_wait_ms: 1000
liveness_probe:
  initial_delay: 30
  period: 30
  timeout: 2
  success_threshold: 1
  failure_threshold: 5
readiness_probe: {initial_delay: 1, period: 0.5, timeout: 1, success_threshold: 2, failure_threshold: 3}
startup_probe: {initial_delay: 5, period: 5, timeout: 2, success_threshold: 1, failure_threshold: 100}
data_collector:
  sampling_rate: 0.5
  rolling_rate: Hour
  collections:
    model_inputs:
      enabled: 'True'
      client_id: 0000-1111
      data: {name: inputs, path: azureml://datastores/d/paths/p, version: 1}
    request: {enabled: false, data: azureml:requests:1}
  request_logging:
    capture_headers: [x-customer]
egress_public_network_access: disabled
tidegate:
  backend: local
  min_instances: 0
  max_instances: 8
  idle_seconds: 60
  slo: {latency_ms: 200, percentile: 99.9}
  command: [python, server.py, --port, "{port}"]
  model_errors: pass
  protocol: http2
  drain_seconds: 30
  slow_start_seconds: 45
  scheme: https
  server_name: blue.models.example
  hedging: {percentile: 95, budget_percent: 10}
  affinity: {by: body, json_field: prompt, prefix_bytes: 512, bound: 1.5}
"""

KUBERNETES_DEPLOYMENT = """\
$schema: https://azuremlschemas.azureedge.net/latest/kubernetesOnlineDeployment.schema.json
name: green
type: kubernetes
endpoint_name: fraud-on-cluster
model: azureml:fraud:4
environment: azureml:fraud-env@latest
code_configuration: {code: src, scoring_script: score.py}
instance_type: gpu-small
scale_settings:
  type: target_utilization
  min_instances: 1
  max_instances: 3
  target_utilization_percentage: 60
  polling_interval: 10
resources:
  requests: {cpu: "0.1", memory: 0.5Gi}
  limits:
    cpu: 1
    memory: 1Gi
    nvidia.com/gpu: 1
"""

BUILT_DEPLOYMENT = """\
name: indigo
endpoint_name: fraud-scoring
model: ./model.pkl
environment:
  build: {path: docker, dockerfile_path: Dockerfile.gpu}
  inference_config:
    liveness_route: {port: 8080, path: /live}
    readiness_route: {port: 8080, path: /ready}
    scoring_route: {port: 8080, path: /predict}
scale_settings: {type: target_utilization, min_instances: 2, max_instances: 4}
"""

SMALL_DEPLOYMENT = """\
name: violet
endpoint_name: fraud-scoring
model: file:models/one
environment: file:conda.yml
"""

ENDPOINTS = (MANAGED_ENDPOINT, KUBERNETES_ENDPOINT)
DEPLOYMENTS = (MANAGED_DEPLOYMENT, KUBERNETES_DEPLOYMENT, BUILT_DEPLOYMENT, SMALL_DEPLOYMENT)
