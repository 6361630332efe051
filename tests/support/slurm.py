"""A real SLURM on loopback: a controller and two nodes on this machine, in a folder of their own.

Needs Debian's slurmctld, slurmd and slurm-client (`tests/cluster/install-slurm.sh`); neither root nor munge. The nodes'
*names* are loopback addresses, so that `scontrol show hostnames` gives something that resolves. linuxproc is the one
process tracker that needs no set-up, but it loses sight of orphans: `stop` kills those by their environment.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
NODES = ("127.0.0.1", "127.0.0.2")
CONFIG = """\
ClusterName=t
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait={kill_wait}
MinJobAge=3600
SlurmctldTimeout=30
SlurmdTimeout=30
SlurmdParameters=config_overrides
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str | None:
    """Why SLURM cannot be started here; None when it can."""
    os.environ["PATH"] += ":/usr/sbin"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"no {', '.join(missing)} here (tests/cluster/install-slurm.sh)" if missing else None


def _free_ports(count: int) -> int:
    """The first of `count` consecutive free ports."""
    for base in range(21000 + 50 * (os.getpid() % 100), 30000, 50):
        with ExitStack() as stack:
            try:
                for number in range(count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", base + number))
            except OSError:
                continue
            return base
    raise RuntimeError("no free ports")


class Slurm:
    """Daemons in `root`, as children of this process."""

    def __init__(self, root: Path, cpus: int = 8, kill_wait: int = 5) -> None:
        self.root = root
        for name in ("state", "log", *(f"spool.{node}" for node in NODES)):
            (root / name).mkdir(parents=True, exist_ok=True)
        host, port = socket.gethostname().split(".")[0], _free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + 1 + i} CPUs={cpus} RealMemory=8000"
            for i, node in enumerate(NODES)
        )
        user = pwd.getpwuid(os.getuid()).pw_name
        text = CONFIG.format(host=host, port=port, user=user, root=root, nodes=nodes, kill_wait=kill_wait)
        (root / "slurm.conf").write_text(text)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        self.env["SLURM_CONF"] = str(root / "slurm.conf")
        self.controller: subprocess.Popen[bytes] | None = None
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> Slurm:
        """Start everything and wait until both nodes are idle."""
        try:
            self.start_controller("-c")
            for node in NODES:
                self.start_node(node)
            self.until(lambda: self.node_states() == dict.fromkeys(NODES, "idle"), "idle nodes")
        except BaseException:
            self.stop()
            raise
        return self

    def node_states(self) -> dict[str, str]:
        """State of each node."""
        return dict(line.split("=") for line in self.call("sinfo", "-h", "-N", "-o", "%N=%T").split())

    def start_controller(self, *options: str) -> None:
        self.controller = self._spawn("slurmctld", "-D", *options)

    def start_node(self, node: str) -> None:
        self.nodes[node] = self._spawn("slurmd", "-D", "-N", node)

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        with open(self.root / "log" / f"{words[0]}.out", "ab") as log:
            return subprocess.Popen(
                words, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def lose_node(self, node: str, job: int) -> None:
        """Kill a node's daemon and a job's processes there at once, and let the controller notice."""
        daemon = self.nodes.pop(node)
        daemon.kill()
        self.kill_processes(job)
        daemon.wait()
        self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def stop_controller(self) -> None:
        assert self.controller is not None
        self.controller.terminate()
        self.controller.wait(20)
        self.controller = None

    def call(self, *words: str) -> str:
        """What a SLURM command prints."""
        return subprocess.run(words, env=self.env, capture_output=True, text=True, check=False).stdout

    def job(self, number: str) -> list[str]:
        """The fields of `scontrol show job`, KEY=VALUE."""
        return self.call("scontrol", "show", "job", number).split()

    def until(self, condition: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
        """Wait until `condition` holds."""
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"no {what} within {timeout} s; logs are in {self.root}/log")
            time.sleep(0.1)

    def idle(self) -> None:
        """Cancel every job and wait until nothing runs."""
        self.call("scancel", "--me")
        self.until(lambda: not self.call("squeue", "-h").strip(), "empty queue")

    def stop(self) -> None:
        """Cancel everything, stop the daemons, kill what they lost sight of."""
        self.call("scancel", "-f", "--me")
        time.sleep(0.2)
        for process in (*self.nodes.values(), self.controller):
            if process is not None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.kill_processes()

    def kill_processes(self, job: int | None = None) -> None:
        """SIGKILL every process of jobs here, or of one job; its keeper (slurmstepd) first, which would report it."""
        mine = f"SLURM_CONF={self.env['SLURM_CONF']}".encode()
        keepers, others = [], []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if mine not in environment:
                continue
            if command.startswith(f"slurmstepd: [{job}.".encode() if job else b"slurmstepd: ["):
                keepers.append(int(folder.name))
            elif any(e == f"SLURM_JOB_ID={job}".encode() if job else e[:13] == b"SLURM_JOB_ID=" for e in environment):
                others.append(int(folder.name))
        for number in (*keepers, *others):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


@dataclass(frozen=True)
class Xec:
    """Runs `xec` commands in a folder, with a SLURM."""

    slurm: Slurm
    folder: Path

    def __call__(self, *arguments: object, fails: bool = False) -> str:
        """What `xec ARGUMENTS` prints; with `fails` it must exit non-zero, and that is its error output."""
        words = [sys.executable, "-m", "xec", *map(str, arguments)]
        done = subprocess.run(words, env=self.slurm.env, cwd=self.folder, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) is fails, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stderr + done.stdout if fails else done.stdout

    def finish(self, name: str) -> str:
        """Wait for a campaign to end well; what its status then says."""
        return self("cluster", "status", name, "--wait")

    def jobs(self, name: str) -> list[int]:
        """Ids of everything a campaign has sent, oldest first."""
        record = json.loads((self.folder / f"{name}.jobs" / "campaign.json").read_text())
        return [sent["job"] for step in record["steps"] for sent in step["sent"]]

    def log(self, name: str, pattern: str = "*.log") -> str:
        """Logs of a campaign, one after the other."""
        return "".join(path.read_text() for path in sorted((self.folder / f"{name}.jobs" / "logs").glob(pattern)))
