"""Write the configuration of the site lab's cluster (slurm.conf(5), slurmdbd.conf(5))."""

import socket
from pathlib import Path

import attrs

CLUSTER = "lab"
USER = "labuser"
PASSWORD = "slurmlab"

NODES = ("node01", "node02", "node03", "node04")
"""The last one has two GPUs of type a100."""


@attrs.frozen
class Ports:
    """Name the TCP ports of one cluster."""

    controller: int
    accounting: int
    database: int
    nodes: tuple[int, ...]

    @classmethod
    def free(cls) -> "Ports":
        """Take ports that nobody uses now."""
        sockets = [socket.socket() for _ in range(3 + len(NODES))]
        try:
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            first, second, third, *rest = (each.getsockname()[1] for each in sockets)
        finally:
            for each in sockets:
                each.close()
        return cls(first, second, third, tuple(rest))


@attrs.frozen
class Places:
    """Say where a cluster's controller and its nodes are: addresses, and commands that go there."""

    login_address: str = "127.0.0.1"
    compute_address: str = "127.0.0.1"
    login: tuple[str, ...] = ()
    compute: tuple[str, ...] = ()


HERE = Places()


def write_settings(directory: Path, ports: Ports, places: Places) -> None:
    """Write every configuration file into ``directory / "etc"``."""
    files = {
        "slurm.conf": _slurm(directory, ports, places),
        "slurmdbd.conf": _slurmdbd(directory, ports),
        "gres.conf": _gres(),
        "cgroup.conf": "CgroupAutomount=yes\nCgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\n",
    }
    for name, text in files.items():
        path = directory / "etc" / name
        path.write_text(text)
        path.chmod(0o600 if name == "slurmdbd.conf" else 0o644)


def _slurm(directory: Path, ports: Ports, places: Places) -> str:
    """Return slurm.conf; job ids differ between clusters, which share this host's cgroups."""
    host = socket.gethostname().partition(".")[0]
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr={places.compute_address} Port={port} "
        f"{_hardware(name)}"
        for name, port in zip(NODES, ports.nodes, strict=True)
    )
    return f"""
ClusterName={CLUSTER}
SlurmctldHost={host}({places.login_address})
SlurmctldPort={ports.controller}
FirstJobId={ports.controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge/socket
CredType=cred/munge
StateSaveLocation={directory}/state
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.%n.pid
SlurmdSpoolDir={directory}/spool/%n
SlurmctldLogFile={directory}/log/slurmctld.log
SlurmdLogFile={directory}/log/slurmd.%n.log
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/cgroup
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
MinJobAge=300
KillWait=2
InactiveLimit=0
MessageTimeout=30
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
JobCompType=jobcomp/none
MailProg=/bin/true
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={ports.accounting}
AccountingStoragePass={directory}/munge/socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations
NodeName=DEFAULT CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=4000
{nodes}
PartitionName=DEFAULT State=UP DefMemPerCPU=100
PartitionName=debug Nodes=ALL Default=YES MaxTime=00:30:00 DefaultTime=00:05:00
PartitionName=batch Nodes=node[01-03] MaxTime=1-00:00:00
PartitionName=gpu Nodes={NODES[-1]} MaxTime=INFINITE
PartitionName=maint Nodes=node01 MaxTime=01:00:00 State=DOWN
"""


def _hardware(node: str) -> str:
    return "Feature=gpu,a100 Gres=gpu:a100:2" if node == NODES[-1] else "Feature=cpu"


def _gres() -> str:
    """Let two device files that every machine has stand for GPUs."""
    return "".join(
        f"NodeName={NODES[-1]} Name=gpu Type=a100 File={device} Count=1\n"
        for device in ("/dev/null", "/dev/zero")
    )


def _slurmdbd(directory: Path, ports: Ports) -> str:
    return f"""
AuthType=auth/munge
AuthInfo=socket={directory}/munge/socket
DbdHost=localhost
DbdPort={ports.accounting}
SlurmUser=root
LogFile={directory}/log/slurmdbd.log
PidFile={directory}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports.database}
StorageLoc=slurm_acct_db
StorageUser=slurm
StoragePass={PASSWORD}
"""


ACCOUNTS = f"""
add cluster {CLUSTER}
add account proj1 Organization=lab Cluster={CLUSTER} Fairshare=10 GrpTRESMins=cpu=60000
add account proj2 Organization=lab Cluster={CLUSTER} Fairshare=5
add qos high Priority=100 MaxWall=02:00:00
add user root Account=proj1 DefaultAccount=proj1
add user root Account=proj2 MaxJobs=4 MaxSubmitJobs=8
modify user root set qos+=high
add user {USER} Account=proj1 DefaultAccount=proj1
add user {USER} Account=proj2 MaxJobs=4 MaxSubmitJobs=8
modify user {USER} set qos+=high
quit
"""
"""What sacctmgr(1) reads: two accounts, two users, and a QOS more than the default one."""
