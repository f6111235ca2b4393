"""launch/jobset.yaml against the part of the JobSet and Job schemas that it uses."""

import copy
import pathlib

import jsonschema
import pytest
import yaml

from alignjax.core import errors
from alignjax.planning import topology

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "launch" / "jobset.yaml").read_text()
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
COUNT = {"type": "integer", "minimum": 0}


def record(required=(), **fields):
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


def rows(item, least=1):
    return {"type": "array", "items": item, "minItems": least}


STRING, STRINGS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
LABELS = {"type": "object", "additionalProperties": STRING}
EXIT_CODES = record(
    ("operator", "values"),
    containerName=STRING,
    operator={"enum": ["In", "NotIn"]},
    values=rows({"type": "integer", "minimum": 0, "maximum": 255}),
)
POD_RULE = record(
    ("action",),
    action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]},
    onExitCodes=EXIT_CODES,
    onPodConditions=rows(record(("type", "status"), type=STRING, status=STRING)),
)
CONTAINER = record(
    ("name", "image"),
    name=NAME,
    image=STRING,
    command=STRINGS,
    args=STRINGS,
    env=rows(record(("name", "value"), name=STRING, value=STRING)),
    ports=rows(record(("containerPort",), containerPort={"type": "integer", "maximum": 65535})),
    resources=record(limits={"type": "object"}, requests={"type": "object"}),
    volumeMounts=rows(record(("name", "mountPath"), name=NAME, mountPath=STRING)),
)
CLAIM = record(("claimName",), claimName=NAME)
POD = record(
    ("containers", "restartPolicy"),
    restartPolicy={"enum": ["Never", "OnFailure"]},
    terminationGracePeriodSeconds=COUNT,
    nodeSelector=LABELS,
    serviceAccountName=STRING,
    containers=rows(CONTAINER),
    volumes=rows(record(("name", "persistentVolumeClaim"), name=NAME, persistentVolumeClaim=CLAIM)),
)
JOB = record(
    ("template",),
    parallelism=COUNT,
    completions=COUNT,
    completionMode={"enum": ["Indexed", "NonIndexed"]},
    backoffLimit=COUNT,
    podFailurePolicy=record(("rules",), rules=rows(POD_RULE)),
    template=record(("spec",), metadata=record(annotations=LABELS, labels=LABELS), spec=POD),
)
REASONS = ["BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded",
           "PodFailurePolicy"]  # fmt: skip
SET_RULE = record(
    ("name", "action"),
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
    onJobFailureReasons=rows({"enum": REASONS}),
    targetReplicatedJobs=rows(STRING),
)
REPLICATED = record(
    ("name", "template"),
    name=NAME,
    replicas=COUNT,
    template=record(("spec",), metadata=record(annotations=LABELS, labels=LABELS), spec=JOB),
)
SCHEMA = record(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=record(("name",), name=NAME, namespace=NAME, annotations=LABELS, labels=LABELS),
    spec=record(
        ("replicatedJobs",),
        failurePolicy=record(maxRestarts=COUNT, rules=rows(SET_RULE)),
        replicatedJobs=rows(REPLICATED),
    ),
)


@pytest.fixture
def manifest():
    return yaml.safe_load(TEXT)


def pod_of(manifest):
    return job_of(manifest)["template"]["spec"]


def job_of(manifest):
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]


def test_it_is_a_jobset(manifest):
    jsonschema.validate(manifest, SCHEMA)
    assert len(list(yaml.safe_load_all(TEXT))) == 1


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers", 0),
        ("spec", "replicatedJobs", 0, "template", "spec", "podFailurePolicy", "rules", 0),
        ("spec", "failurePolicy"),
    ],
)
def test_the_schema_refuses_a_misspelt_field(path, manifest):
    wrong = copy.deepcopy(manifest)
    place = wrong
    for step in path:
        place = place[step]
    place["mispelt"] = 1
    with pytest.raises(jsonschema.ValidationError, match="mispelt"):
        jsonschema.validate(wrong, SCHEMA)


def test_its_parts_fit_each_other(manifest):
    job, pod = job_of(manifest), pod_of(manifest)
    (container,) = pod["containers"]
    assert job["parallelism"] == job["completions"]
    assert pod["restartPolicy"] == "Never"  # a pod failure policy needs it
    mounts, volumes = (
        {x["name"] for x in part} for part in (container["volumeMounts"], pod["volumes"])
    )
    assert mounts == volumes
    chips = job["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    sizes = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    wide, high = map(int, sizes.split("x"))
    assert chips == wide * high
    assert sizes in topology.FLAT


def test_exit_codes_are_those_of_the_program(manifest):
    (rule,) = job_of(manifest)["podFailurePolicy"]["rules"]
    stopping = rule["onExitCodes"]["values"]
    assert stopping == [2, errors.NonFinite.code]
    assert errors.Preempted.code not in stopping
    assert errors.Failure.code not in stopping  # a peer that vanished
    assert rule["onExitCodes"]["containerName"] == pod_of(manifest)["containers"][0]["name"]
    (set_rule,) = manifest["spec"]["failurePolicy"]["rules"]
    assert set_rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert job_of(manifest)["backoffLimit"] == 0


def test_its_command_is_one_of_ours(manifest):
    from alignjax.cli import flags
    from alignjax.commands import train

    command, *options = pod_of(manifest)["containers"][0]["args"]
    assert command == "train"
    parsed = flags.parse(options, command="train", options=train.OPTIONS, needs_config=True)
    assert parsed.options["coordinator"] == "auto"
    assert parsed.overrides["data.path"] == "/runs/data"
