"""Hypothesis strategies: valid endpoint and deployment documents, valid specs, and broken variants of documents."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from router.contract import specs
from router.contract.parts import Build

RELAXED = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
"""No clock decides these tests: a machine may be busy. Shrinking a whole document can outlast a test's time limit."""
NAMES = st.from_regex(r"[a-zA-Z][a-zA-Z0-9]{1,6}(-[a-zA-Z0-9]{1,5}){0,2}", fullmatch=True).filter(
    lambda name: 3 <= len(name) <= 30
)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
SCALARS = st.one_of(TEXT, st.integers(-1000, 1000), st.booleans(), st.floats(-10, 10))
TEXTS = st.dictionaries(TEXT, TEXT, max_size=3)
TAGS = st.dictionaries(TEXT, SCALARS, max_size=3)
VARIABLES = st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), SCALARS, max_size=3)
PATHS = st.from_regex(r"(\.\./)?[a-z]{1,6}(/[a-z]{1,6}){0,2}", fullmatch=True)
REFERENCES = st.from_regex(r"azureml:[a-z]{1,6}(:[0-9]{1,2}|@latest)", fullmatch=True)
SECONDS = st.one_of(st.integers(1, 600), st.floats(0.1, 600))


def shares(names: list[str], total: int) -> st.SearchStrategy[dict[str, int]]:
    """Whole percentages of these names that add up to `total`."""
    cuts = st.lists(st.integers(0, total), min_size=len(names) - 1, max_size=len(names) - 1).map(sorted)
    return cuts.map(
        lambda at: dict(zip(names, (b - a for a, b in zip([0, *at], [*at, total], strict=True)), strict=True))
    )


def some(**keys: Any) -> st.SearchStrategy[dict[str, Any]]:
    """A map with any of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


ROUTE = st.fixed_dictionaries({"path": st.just("/score/v1"), "port": st.integers(1, 65535)})
ROUTES = st.fixed_dictionaries({"liveness_route": ROUTE, "readiness_route": ROUTE, "scoring_route": ROUTE})
PROBE = some(
    initial_delay=st.integers(0, 600), period=SECONDS, timeout=SECONDS, success_threshold=st.just(1),
    failure_threshold=st.integers(1, 100),
)  # fmt: skip
MODEL = st.one_of(
    REFERENCES,
    PATHS,
    PATHS.map("file:".__add__),
    st.fixed_dictionaries(
        {"path": PATHS},
        optional={
            "name": NAMES, "version": st.one_of(TEXT, st.integers(1, 99)), "type": st.just("triton_model"),
            "description": st.text(max_size=5), "tags": TAGS, "properties": TAGS,
        },
    ),
)  # fmt: skip
ENVIRONMENT = st.one_of(
    REFERENCES,
    PATHS.map("file:".__add__),
    st.fixed_dictionaries(
        {"image": TEXT}, optional={"conda_file": PATHS, "version": st.integers(1, 9), "inference_config": ROUTES}
    ),
    st.fixed_dictionaries({"build": some(dockerfile_path=PATHS).map(lambda build: {"path": ".", **build})}),
)
TARGET = st.tuples(st.integers(0, 9), st.integers(1, 9)).flatmap(
    lambda bounds: st.fixed_dictionaries(
        {
            "type": st.sampled_from(["target_utilization", "TargetUtilization"]),
            "min_instances": st.just(min(bounds)),
            "max_instances": st.just(max(bounds)),
        },
        optional={"target_utilization_percentage": st.integers(1, 100), "polling_interval": SECONDS},
    )
)
SCALE = st.one_of(st.just({"type": "default"}), TARGET)
COLLECTOR = some(
    sampling_rate=st.floats(0, 1),
    rolling_rate=st.sampled_from(["hour", "Minute"]),
    collections=st.dictionaries(TEXT, some(enabled=st.sampled_from([True, "True"]), client_id=TEXT), max_size=2),
    request_logging=some(capture_headers=st.lists(TEXT, max_size=2)),
)
AMOUNTS = st.fixed_dictionaries({"cpu": st.sampled_from([1, "500m", 0.5]), "memory": st.just("1Gi")})
RESOURCES = st.fixed_dictionaries(
    {"requests": AMOUNTS}, optional={"limits": some(cpu=st.just("2"), memory=st.just("2Gi"))}
)
DEPLOYMENT_EXTRAS = some(
    backend=st.sampled_from(["local", "ray", "kubernetes"]), min_instances=st.just(0), max_instances=st.integers(10, 99),
    idle_seconds=SECONDS, slo=st.fixed_dictionaries({"latency_ms": SECONDS}, optional={"percentile": st.just(95)}),
    command=st.lists(TEXT, max_size=3), model_errors=st.sampled_from(["map", "pass"]), protocol=st.sampled_from(["http1", "http2"]), drain_seconds=st.integers(0, 99),
    slow_start_seconds=st.sampled_from([0, 0.5, 30]), scheme=st.just("https"),
    affinity=st.sampled_from([
        {"by": "client"}, {"by": "cookie", "name": "c", "bound": 2}, {"by": "body"},
        {"by": "body", "json_field": "prompt", "prefix_bytes": 9},
    ]),
    hedging=st.sampled_from([{"after_ms": 20}, {"percentile": 99.5, "budget_percent": 1}]),
)  # fmt: skip


@st.composite
def endpoint_documents(draw: st.DrawFn) -> dict[str, Any]:
    """A valid endpoint document, managed or for Kubernetes."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique_by=str.lower))
    live, shadows = names[: len(names) // 2 + 1], names[len(names) // 2 + 1 :]
    kubernetes = draw(st.booleans())
    only: dict[str, Any] = {"public_network_access": st.sampled_from(["enabled", "disabled", "Enabled"])}
    if kubernetes:
        only = {"$schema": st.just("https://x/kubernetesOnlineEndpoint.schema.json")}
    extras: dict[str, Any] = {
        "hosts": st.lists(st.just("a.example"), max_size=1), "server_timing": st.booleans()
    }  # fmt: skip
    extras["websocket"] = st.sampled_from([{}, {"ping_seconds": 0, "max_seconds": 3600}])
    extras["stickiness"] = st.sampled_from([{"by": "client"}, {"by": "cookie", "name": "c"}])
    extras["limits"] = st.sampled_from(
        [{}, {"requests_per_second": 2.5, "burst": 9}, {"concurrent_requests": 1}, {"max_body_bytes": 9}]
    )
    classes = ["high", "low"]
    extras["priorities"] = st.sampled_from(
        [{"header": "p", "classes": classes, **more} for more in ({}, {"default": "low"})]
    )
    mirror: dict[str, Any] = {}
    if bool(shadows) and draw(st.booleans()):
        mirror = {"mirror_traffic": st.just({shadows[0]: draw(st.integers(0, 50))})}
    elif shadows:
        fractions = st.floats(0.0001, 1)
        extras["mirror"] = st.just([{"deployment": name, "fraction": draw(fractions)} for name in shadows])
    optional = {
        "description": st.text(max_size=9), "tags": TAGS, "properties": TAGS, "auth_mode": st.sampled_from(["key", "Key"]),
        "identity": st.sampled_from([{}, {"type": "user_assigned", "user_assigned_identities": [{"resource_id": "/x"}]}]),
        "traffic": shares(live, draw(st.sampled_from([0, 100]))), "tidegate": some(**extras), **mirror, **only,
    }  # fmt: skip
    required = {"name": NAMES, **({"compute": st.just("azureml:cluster")} if kubernetes else {})}
    return draw(st.fixed_dictionaries(required, optional=optional))


@st.composite
def deployment_documents(draw: st.DrawFn) -> dict[str, Any]:
    """A valid deployment document, managed or for Kubernetes."""
    kubernetes = draw(st.booleans())
    only: dict[str, Any] = {"egress_public_network_access": st.just("disabled"), "type": st.just("Managed")}
    if kubernetes:
        only = {"resources": RESOURCES}
    optional = {
        "description": st.text(max_size=9), "tags": TAGS, "properties": TAGS, "model": MODEL, "environment": ENVIRONMENT,
        "model_mount_path": PATHS, "environment_variables": VARIABLES, "instance_type": TEXT,
        "code_configuration": st.fixed_dictionaries({"code": PATHS, "scoring_script": st.just("a/score.py")}),
        "instance_count": st.integers(0, 9), "app_insights_enabled": st.booleans(), "scale_settings": SCALE,
        "request_settings": some(
            request_timeout_ms=st.integers(1, 300_000), max_queue_wait_ms=st.integers(0, 1000),
            max_concurrent_requests_per_instance=st.integers(1, 99),
        ),
        "liveness_probe": PROBE, "readiness_probe": PROBE, "startup_probe": PROBE, "data_collector": COLLECTOR,
        "tidegate": DEPLOYMENT_EXTRAS, **only,
    }  # fmt: skip
    required = {"name": NAMES, "endpoint_name": NAMES, **({"type": st.just("kubernetes")} if kubernetes else {})}
    return draw(st.fixed_dictionaries(required, optional=optional))


TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def broken(draw: st.DrawFn, documents: st.SearchStrategy[dict[str, Any]]) -> Any:
    """A document with one to three values replaced, removed, added or renamed, anywhere in it."""
    document: Any = copy.deepcopy(draw(documents))
    for _ in range(draw(st.integers(1, 3))):
        node = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            deeper = [key for key in keys if isinstance(node[key], dict | list) and node[key]]
            if not deeper or draw(st.booleans()):
                break
            node = node[draw(st.sampled_from(deeper))]
        if isinstance(node, list):
            node.insert(draw(st.integers(0, len(node))), draw(TREES))
        elif not node or draw(st.booleans()):
            node[draw(st.text(max_size=6))] = draw(TREES)
        else:
            key = draw(st.sampled_from(sorted(node)))
            found = node.pop(key)
            action = draw(st.sampled_from(["replace", "rename", "remove"]))
            if action == "replace":
                node[key] = draw(TREES)
            elif action == "rename":
                node[key[:-1]] = found
    return document


ENDPOINT_SPECS = st.builds(
    lambda name, pair, total, **rest: specs.EndpointSpec(
        name, traffic={pair[0]: total} if total is not None else {}, mirror_traffic={pair[1]: 7}, **rest
    ),
    name=NAMES,
    pair=st.lists(NAMES, min_size=2, max_size=2, unique_by=str.lower),
    total=st.sampled_from([None, 0, 100]),
    description=st.text(max_size=5),
    tags=TEXTS,
    properties=TEXTS,
    compute=st.sampled_from([None, "azureml:cluster"]),
    identity=st.sampled_from([None, specs.Identity(), specs.Identity("user_assigned", ("/a", "/b"))]),
    extras=st.sampled_from([
        specs.EndpointExtras(), specs.EndpointExtras(hosts=("a.example",), server_timing=True, stickiness=specs.Stickiness("client")),
    ]),
    schema=st.sampled_from([None, "https://x/onlineEndpoint.schema.json"]),
)  # fmt: skip
_ROUTES = specs.InferenceConfig(specs.Route("/", 1), specs.Route("/r", 2), specs.Route("/s", 3))
DEPLOYMENT_SPECS = st.builds(
    specs.DeploymentSpec,
    name=NAMES,
    endpoint_name=NAMES,
    kind=st.sampled_from(list(specs.Kind)),
    description=st.text(max_size=5),
    tags=TEXTS,
    model=st.one_of(
        st.none(),
        REFERENCES.map(lambda name: specs.Model(reference=name)),
        st.builds(specs.Model, path=PATHS, name=st.none() | NAMES, version=st.none() | TEXT, tags=TEXTS),
    ),
    model_mount_path=st.none() | PATHS,
    code_configuration=st.none() | st.builds(specs.CodeConfiguration, PATHS, st.just("score.py")),
    environment=st.one_of(
        st.none(),
        REFERENCES.map(lambda name: specs.Environment(reference=name)),
        st.builds(specs.Environment, image=TEXT, conda_file=st.none() | PATHS, inference_config=st.just(_ROUTES)),
        st.builds(specs.Environment, build=st.builds(Build, PATHS, st.sampled_from(["Dockerfile", "other"]))),
    ),
    environment_variables=st.dictionaries(st.from_regex(r"[A-Z]{1,5}", fullmatch=True), TEXT, max_size=2),
    instance_type=st.none() | TEXT,
    instance_count=st.integers(0, 9),
    app_insights_enabled=st.booleans(),
    scale_settings=st.one_of(
        st.just(specs.DefaultScale()),
        st.builds(specs.TargetUtilization, st.integers(0, 3), st.integers(3, 9), st.integers(1, 100), SECONDS),
    ),
    request_settings=st.builds(specs.RequestSettings, st.integers(1, 300_000)),
    liveness_probe=st.builds(specs.Probe, SECONDS, SECONDS),
    readiness_probe=st.builds(specs.Probe, SECONDS, SECONDS, success_threshold=st.integers(1, 5)),
    startup_probe=st.none() | st.builds(specs.Probe, SECONDS),
    data_collector=st.sampled_from([None, {}, {"sampling_rate": 0.5, "request_logging": {"capture_headers": ["a"]}}]),
    extras=st.builds(
        specs.DeploymentExtras,
        backend=st.sampled_from([None, "local"]),
        min_instances=st.sampled_from([None, 0]),
        idle_seconds=SECONDS,
        slo=st.none() | st.builds(specs.Slo, SECONDS),
        command=st.lists(TEXT, max_size=2).map(tuple),
        model_errors=st.sampled_from(["map", "pass"]),
        protocol=st.sampled_from(["http1", "http2"]),
        slow_start_seconds=st.sampled_from([0, 0.5, 30]),
        scheme=st.just("https"),
        server_name=st.sampled_from([None, "blue.models.example"]),
        affinity=st.sampled_from([None, specs.Affinity("client"), specs.Affinity("body", prefix_bytes=9, bound=3.5)]),
        hedging=st.sampled_from([None, specs.Hedging(after_ms=20), specs.Hedging(percentile=90, budget_percent=1)]),
    ),
)
