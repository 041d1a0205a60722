"""Be qdel, qhold and qrls."""

import sys

from slurm import SERVER, find, jobs, letter, native, number_of, past_jobs, run


def qdel(arguments):
    """Cancel jobs."""
    return _each("qdel", arguments, "scancel")


def qhold(arguments):
    """Hold jobs."""
    return _each("qhold", arguments, "scontrol", "hold")


def qrls(arguments):
    """Release held jobs."""
    return _each("qrls", arguments, "scontrol", "release")


def _each(name, arguments, *command):
    """Apply a command to each job; the exit status is that of the last complaint."""
    known, status = jobs(), 0
    for number in (number_of(each) for each in arguments if not each.startswith("-")):
        full = f"{number}.{SERVER}"
        job = find(known, number) or past_jobs([native(number)]).get(number)
        if job is None:
            complaint, status = f"{name}: Unknown Job Id {full}", 153
        elif letter(job) == "F":
            complaint, status = f"{name}: Job has finished {full}", 35
        elif run(*command, native(number))[0]:
            complaint, status = f"{name}: Unauthorized Request  {full}", 159
        else:
            continue
        print(complaint, file=sys.stderr)
    return status
