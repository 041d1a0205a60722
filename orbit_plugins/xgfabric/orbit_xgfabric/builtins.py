"""Offer the workflows and resources that need no file: ``default`` and ``test``."""

from types import MappingProxyType

from .models import ClusterConfig, ResourceConfig, TaskTemplate, WorkflowConfig

_TRAINING = "{workflow_path}/training"
_TRAINING_OPTIONS = [
    "{sensor_dir}",
    "--simulations-dir",
    "{simulations_dir}",
    "--output-dir",
    "{output_dir}",
]

_DEFAULT = WorkflowConfig(
    name="default",
    description="Airflow in the screen house: OpenFOAM simulations, then PCR, PINN and FNO",
    cspot_limit=9,
    num_simulations=16,
    batch_size=4,
    train_models=["pcr", "pinn", "fno"],
    simulation_task=TaskTemplate(
        "{workflow_path}/simulation/runme.sh",
        [
            "{workflow_path}/simulation/cups_structure.zip",
            "32",
            "{wind_speed}",
            "0.0",
            "0.0",
            "{sim_output_dir}",
            "1 4 1",
            "{sim_id}",
            "{wind_dir}",
        ],
    ),
    training_tasks={
        "pcr": TaskTemplate(f"{_TRAINING}/pcr.sh", _TRAINING_OPTIONS),
        "pinn": TaskTemplate("python3", [f"{_TRAINING}/pinn.py", *_TRAINING_OPTIONS]),
        "fno": TaskTemplate("python3", [f"{_TRAINING}/fno.py", *_TRAINING_OPTIONS]),
    },
    evaluation_task=TaskTemplate(
        "python3",
        ["{workflow_path}/evaluation/evaluate.py", "{sensor_file}", "{eval_output}"],
    ),
)

_TEST_SIMULATION = """
sleep 3
echo "speed,direction" > "$3" && echo "$1,$2" >> "$3"
echo "simulated $1 m/s from $2 degrees"
"""
_TEST_TRAINING = """
sleep 1
cat "$1"/sim_*.csv > "$2/points.csv" || exit 1
echo "trained on $(ls "$1"/sim_*.csv | wc -l) simulations"
"""
_TEST_EVALUATION = """
sleep 1
wc -l "$1"/*/points.csv > "$2/evaluation.txt" || exit 1
echo "evaluated"
"""


def _stub(script: str, *arguments: str) -> TaskTemplate:
    return TaskTemplate("bash", ["-c", script.strip(), "stub", *arguments])


_TEST = WorkflowConfig(
    name="test",
    description="Stand-ins that take seconds, and made-up winds: every phase runs",
    num_simulations=4,
    batch_size=2,
    train_models=["pcr"],
    mock_sensor_data=True,
    simulation_task=_stub(_TEST_SIMULATION, "{wind_speed}", "{wind_dir}", "{sim_output_file}"),
    training_tasks={"pcr": _stub(_TEST_TRAINING, "{simulations_dir}", "{output_dir}")},
    evaluation_task=_stub(_TEST_EVALUATION, "{models_dir}", "{eval_output}"),
)

_TEST_PATH = "~/xgfabric/intheloop"

_TEST_RESOURCE = ResourceConfig(
    name="test",
    cluster_configs={
        "anvil": ClusterConfig(
            queue="wholenode",
            account="dmr140125",
            duration=600.0,
            executor="slurm",
            workflow_path=_TEST_PATH,
        ),
        "frontier": ClusterConfig(
            queue="batch",
            account="fus183",
            duration=600.0,
            executor="slurm",
            workflow_path=_TEST_PATH,
        ),
        "ucsb": ClusterConfig(workflow_path=_TEST_PATH),
    },
)

WORKFLOWS = MappingProxyType({"default": _DEFAULT, "test": _TEST})
RESOURCES = MappingProxyType({"default": ResourceConfig(), "test": _TEST_RESOURCE})

NAMES = frozenset(WORKFLOWS)
"""The names that are built in; no configuration can be saved under them."""


def canonical(name: str) -> str:
    """Return the name that another one stands for: ``__default__`` is ``default``."""
    inner = name.removeprefix("__").removesuffix("__")
    return inner if inner in NAMES and name == f"__{inner}__" else name
