"""Stand in for the evaluation: SENSOR_FILE OUTPUT."""

import os
import sys
from pathlib import Path

sensor_file, output = map(Path, sys.argv[1:])
models = sorted(path.parent.name for path in (output.parent / "models").glob("*/model"))
assert (sensor_file.is_file(), models) == (True, ["fno", "pcr", "pinn"]), models
(output / "evaluation.txt").write_text("evaluated\n")
with (Path(__file__).parents[1] / "log").open("a") as log:
    print(f"evaluate in job {os.environ.get('SLURM_JOB_ID', 'none')}", file=log)
