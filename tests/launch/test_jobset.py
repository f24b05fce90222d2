"""launch/jobset.yaml against the schemas of JobSet and of Kubernetes, and what its fields must say to each other."""

import copy
import re
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

MANIFEST = Path(__file__).resolve().parents[2] / "launch" / "jobset.yaml"

# The oldest in which a pod failure policy is stable, and the newest whose schema the package has.
VERSIONS = ("1.31", kubernetes_validate.latest_version())


def closed(required: str = "", **properties) -> dict:
    """The schema of an object with these fields and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": properties,
    }


STRING, INTEGER, BOOLEAN = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
STRINGS = {"type": "array", "items": STRING}
CONDITION = {"required": ["type", "status"]}

# Field names, types and choices of JobSet v1alpha2, as its CustomResourceDefinition has them (kubernetes-sigs/jobset,
# config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml); only what a starter may use. Of the Job inside there is
# only what JobSet demands beyond Kubernetes: the rest is Kubernetes' own schema.
JOBSET = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=closed("name", name=STRING, namespace=STRING, labels={"type": "object"}),
    spec=closed(
        "replicatedJobs",
        coordinator=closed(
            "replicatedJob", replicatedJob=STRING, jobIndex=INTEGER, podIndex=INTEGER
        ),
        network=closed(
            enableDNSHostnames=BOOLEAN, publishNotReadyAddresses=BOOLEAN, subdomain=STRING
        ),
        failurePolicy=closed(
            maxRestarts=INTEGER,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules={
                "type": "array",
                "items": closed(
                    "action name",
                    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                    action={
                        "enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
                    },
                    onJobFailureReasons=STRINGS,
                    targetReplicatedJobs=STRINGS,
                ),
            },
        ),
        successPolicy=closed(
            "operator", operator={"enum": ["All", "Any"]}, targetReplicatedJobs=STRINGS
        ),
        suspend=BOOLEAN,
        ttlSecondsAfterFinished=INTEGER | {"minimum": 0},
        replicatedJobs={
            "type": "array",
            "items": closed(
                "name template",
                name=STRING,
                replicas=INTEGER,
                template=closed(
                    metadata=closed(labels={"type": "object"}, annotations={"type": "object"}),
                    spec={
                        "type": "object",
                        "required": ["template"],
                        "properties": {
                            "podFailurePolicy": {
                                "properties": {
                                    "rules": {
                                        "items": {
                                            "properties": {"onPodConditions": {"items": CONDITION}}
                                        }
                                    }
                                }
                            }
                        },
                    },
                ),
            ),
        },
    ),
)


def validate(manifest: dict) -> None:
    """Raises `jsonschema.ValidationError`; a field that is not known is an error."""
    jsonschema.validate(manifest, JOBSET)
    for replicated in manifest["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": replicated["name"]}}
        for version in VERSIONS:
            kubernetes_validate.validate(
                job | {"spec": replicated["template"]["spec"]}, version, strict=True
            )


@pytest.fixture(scope="module")
def manifest() -> dict:
    return yaml.safe_load(MANIFEST.read_text())


def job(manifest: dict) -> dict:
    (replicated,) = manifest["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def container(manifest: dict) -> dict:
    (only,) = job(manifest)["template"]["spec"]["containers"]
    return only


def test_it_is_valid(manifest):
    validate(manifest)


def paths(value, here: tuple = ()):
    """The place of every object with named fields."""
    if isinstance(value, dict):
        yield here
    for key, below in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(below, dict | list):
            yield from paths(below, (*here, key))


# Free-form by nature: names of resources.
FREE = {"limits"}


def test_a_misspelt_field_is_refused_anywhere(manifest):
    places = [p for p in paths(manifest) if not (p and p[-1] in FREE)]
    assert len(places) > 20
    for place in places:
        wrong = copy.deepcopy(manifest)
        owner = wrong
        for key in place:
            owner = owner[key]
        first = next(iter(owner))
        owner[first + "s"] = owner[first]
        with pytest.raises(jsonschema.ValidationError):
            validate(wrong)
            pytest.fail(f"{first}s passed in {place}")


@pytest.mark.parametrize(
    "break_it",
    [
        lambda m: m.update(apiVersion="jobset.x-k8s.io/v1"),
        lambda m: m["spec"]["failurePolicy"].update(maxRestarts="10"),
        lambda m: m["spec"]["failurePolicy"]["rules"][0].update(action="Fail"),
        lambda m: m["spec"]["coordinator"].pop("replicatedJob"),
        lambda m: job(m).update(parallelism="2"),
        lambda m: job(m).pop("template"),
        lambda m: job(m)["podFailurePolicy"]["rules"][2]["onPodConditions"][0].pop("status"),
        lambda m: container(m).update(args="--config=c"),
        lambda m: container(m).pop("name"),
    ],
)
def test_a_wrong_value_is_refused(manifest, break_it):
    wrong = copy.deepcopy(manifest)
    break_it(wrong)
    with pytest.raises(jsonschema.ValidationError):
        validate(wrong)


def test_every_pod_is_told_its_rank_the_count_and_pod_0(manifest):
    coordinator = manifest["spec"]["coordinator"]
    assert coordinator["replicatedJob"] == manifest["spec"]["replicatedJobs"][0]["name"]
    assert (coordinator["jobIndex"], coordinator["podIndex"]) == (0, 0)
    (env,) = container(manifest)["env"]
    field = env["valueFrom"]["fieldRef"]["fieldPath"]
    assert field == "metadata.annotations['jobset.sigs.k8s.io/coordinator']"

    args = container(manifest)["args"]
    known = {"JOB_COMPLETION_INDEX": "1", env["name"]: "jaxseg-workers-0-0.jaxseg"}
    expanded = [re.sub(r"\$\((\w+)\)", lambda m: known[m[1]], a) for a in args]
    (given,) = [a for a in expanded if a.startswith("--distributed=")]
    rank, count, host, port = re.fullmatch(r"--distributed=(\d+)/(\d+)@(.+):(\d+)", given).groups()
    assert (rank, host) == ("1", "jaxseg-workers-0-0.jaxseg")
    assert job(manifest)["completionMode"] == "Indexed"
    assert int(count) == job(manifest)["parallelism"] == job(manifest)["completions"]
    assert int(port) == container(manifest)["ports"][0]["containerPort"]
    assert manifest["spec"]["replicatedJobs"][0].get("replicas", 1) == 1


def test_a_mistake_ends_the_jobset_and_a_stop_does_not_count(manifest):
    """Kubernetes' own rules for the policy, which no schema has, and ours for the statuses."""
    assert job(manifest)["template"]["spec"]["restartPolicy"] == "Never"
    assert job(manifest)["backoffLimit"] == 0
    rules = job(manifest)["podFailurePolicy"]["rules"]
    actions = {}
    for rule in rules:
        assert len(rule.keys() & {"onExitCodes", "onPodConditions"}) == 1
        codes = rule.get("onExitCodes")
        if codes:
            assert codes["containerName"] == container(manifest)["name"]
            assert codes["values"] == sorted(set(codes["values"])) and 0 not in codes["values"]
            actions |= {value: rule["action"] for value in codes["values"]}
        else:
            actions |= {c["type"]: rule["action"] for c in rule["onPodConditions"]}
    stops = dict.fromkeys((129, 130, 143, "DisruptionTarget"), "Ignore")
    assert actions == {2: "FailJob", **stops}
    assert manifest["spec"]["failurePolicy"]["rules"] == [
        {"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]


def test_python_gets_the_signal_and_has_the_time_to_save(manifest):
    assert container(manifest)["command"] == ["python", "-m", "jaxseg.train"]
    pod = job(manifest)["template"]["spec"]
    # Longer than the heartbeat of 100 s and 5 s: also a process that waits for a dead one ends by itself.
    assert pod["terminationGracePeriodSeconds"] > 105
    mounted = {m["name"] for m in container(manifest)["volumeMounts"]}
    assert mounted == {v["name"] for v in pod["volumes"]}
    (workdir,) = [a for a in container(manifest)["args"] if a.startswith("--workdir=")]
    (shared,) = [
        m["mountPath"] for m in container(manifest)["volumeMounts"] if m["name"] == "shared"
    ]
    assert workdir.startswith(f"--workdir={shared}/")
