"""A real Slurm cluster on this machine: a login host with all services, and nodes, each in namespaces of its own.

Everything lives in one private process namespace, with networks, host names and mounts that the machine never sees.
Killing the first process of the namespace ends all of it, and so does the death of the test run. A node is a nested
process namespace: `SlurmCluster.kill_node` is a power failure, jobs included.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import string
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / 'cluster_files'
#: What a cluster is made of; .ci/install installs the packages.
NEEDS = ('slurmctld', 'slurmd', 'slurmdbd', 'sbatch', 'srun', 'sacct', 'munged', 'mariadbd', 'mariadb-install-db',
         'ip', 'nsenter', 'unshare', 'setpriv', 'gcc', '/usr/include/slurm/spank.h')
NODES = ('n1', 'n2')
GPUS_PER_NODE = 4
SUBNET = '10.77.0'
LOGIN_ADDRESS = f'{SUBNET}.254'


class SlurmCluster:
    """Two nodes of four fake GPUs each. Start it as a context manager.

    Args:
        site_mounts: what the container plugin mounts in every image, read-only: source -> destination.
    """

    def __init__(self, site_mounts: Mapping[Path, str]) -> None:
        # Not pytest's folder: munged refuses a socket in a folder that others may not enter.
        self.base = Path(tempfile.mkdtemp(prefix='mlperf-det-slurm-'))
        self.base.chmod(0o755)
        self.environment = {'SLURM_CONF': str(self.base / 'slurm.conf')}
        self._site_mounts = site_mounts
        self._root: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SlurmCluster:
        try:
            self._write_files()
            self._open_namespace()
            self._start_services()
            for node in NODES:
                self.start_node(node)
            self.wait_until_idle()
        except BaseException as error:
            logs = '\n'.join(f'--- {log.name}\n{log.read_text(errors="replace")[-1500:]}'
                             for log in sorted(self.base.glob('log/*')))
            self.stop()
            raise RuntimeError(f'the Slurm cluster did not start: {error}\n{logs}') from error
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill everything that belongs to the cluster.

        Raises:
            RuntimeError: a process or a mount is left.
        """
        if self._root is not None:
            self._root.kill()
            self._root.wait()
            self._root = None
        try:
            wait_for(lambda: not list(self.processes()), 10, 'every process of the cluster has ended')
            left = [line for line in Path('/proc/mounts').read_text().splitlines() if str(self.base) in line]
            if left:
                raise RuntimeError(f'mounts of the cluster are left: {left}')
        finally:
            shutil.rmtree(self.base)

    def processes(self) -> Iterator[int]:
        """Yield the processes of the cluster, by the environment that all of them inherit."""
        for folder in Path('/proc').glob('[0-9]*'):
            try:
                environment = (folder / 'environ').read_bytes()
            except OSError:
                continue
            if f'SLURM_CONF={self.base}/'.encode() in environment:
                yield int(folder.name)

    # Using it

    def popen(self, *command: str | Path, environment: Mapping[str, str] | None = None,
              folder: Path = Path(), **options: Any) -> subprocess.Popen[str]:
        """Start a command on the login host, in a folder."""
        assert self._root is not None
        namespaces = f'/proc/{self._root.pid}/ns'
        enter = ['nsenter', f'--net={namespaces}/net', f'--mount={namespaces}/mnt', f'--uts={namespaces}/uts',
                 f'--pid={namespaces}/pid_for_children', f'--wd={folder}', '--']
        return subprocess.Popen([*enter, *map(str, command)], text=True,
                                env={**os.environ, **self.environment, **(environment or {})}, **options)

    def run(self, *command: str | Path, check: bool = True, timeout: float = 30) -> str:
        """Run a command on the login host and return what it prints."""
        process = self.popen(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        if check and process.returncode:
            raise RuntimeError(f'{" ".join(map(str, command))}: exit status {process.returncode}: {out}{err}')
        return out

    def works(self, *command: str | Path) -> bool:
        """Say whether a command on the login host succeeds."""
        return self.popen(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait(30) == 0

    def jobs(self) -> list[tuple[str, str, str]]:
        """Return id, name and state of each job that Slurm has not done with."""
        lines = self.run('squeue', '--noheader', '--format=%i|%j|%T').splitlines()
        return [(job, name, state) for job, name, state in (line.split('|') for line in lines)]

    def accounting(self, job: str) -> dict[str, str]:
        """Return what Slurm's accounting holds of a job."""
        fields = ('State', 'ExitCode', 'NodeList', 'Partition')
        line = self.run('sacct', '-X', '-n', '-P', '-j', job, '-o', ','.join(fields)).strip()
        return dict(zip(fields, line.split('|'), strict=True))

    def kill_node(self, node: str) -> None:
        """Take a node away without notice: all its processes are gone at once."""
        self.run('kill', '-KILL', self._pid_file(node).read_text().strip())

    def start_node(self, node: str) -> None:
        """Start a node, for the first time or again."""
        file = self._pid_file(node)
        file.unlink(missing_ok=True)
        address = f'{SUBNET}.{NODES.index(node) + 1}'
        # The file gets its name inside, when the node has namespaces of its own.
        self.popen('bash', '-c', 'echo $$ > "$1.new"; exec unshare --net --mount --pid --uts --fork --kill-child '
                   '--mount-proc bash "${@:2}"', 'node', file, TEMPLATES / 'node.sh', node, address, self.base,
                   stdin=subprocess.DEVNULL, start_new_session=True)
        wait_for(file.is_file, 10, f'{node} starts')
        # The old link of a node that was killed goes when the kernel has taken down its network.
        wait_for(lambda: not self.works('ip', 'link', 'show', node), 20, f'the old link of {node} goes')
        self.run('ip', 'link', 'add', node, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', file.read_text().strip())
        self.run('ip', 'link', 'set', node, 'master', 'bridge0', 'up')

    def wait_until_idle(self, timeout: float = 120) -> None:
        """Wait until every node is idle and no job is left."""
        wait_for(lambda: set(self.run('sinfo', '-h', '-N', '-p', 'main', '-o', '%N %T', check=False).splitlines())
                 == {f'{node} idle' for node in NODES} and not self.jobs(), timeout, 'all nodes are idle')

    # Building it

    def _pid_file(self, node: str) -> Path:
        return self.base / f'run/{node}.pid'

    def _write_files(self) -> None:
        for folder in ('state', 'log', 'run', 'dev', 'munge', 'database'):
            (self.base / folder).mkdir(mode=0o755)
        values = {'BASE': str(self.base), 'SUBNET': SUBNET, 'LOGIN': LOGIN_ADDRESS, 'GPUS': str(GPUS_PER_NODE)}
        for name in ('slurm.conf', 'slurmdbd.conf', 'gres.conf', 'hosts', 'nsswitch.conf', 'resolv.conf'):
            text = string.Template((TEMPLATES / name).read_text()).substitute(values)
            (self.base / name).write_text(text)
        (self.base / 'slurmdbd.conf').chmod(0o600)
        mounts = ' '.join(f'mount={source}:{destination}' for source, destination in self._site_mounts.items())
        (self.base / 'plugstack.conf').write_text(f'required {self._compile_plugin()} {mounts}\n')
        (self.base / 'munge/key').write_bytes(os.urandom(128))
        (self.base / 'munge/key').chmod(0o400)
        for number in range(GPUS_PER_NODE):
            # Slurm hands out character devices only: these are /dev/null under the name of a GPU.
            os.mknod(self.base / f'dev/nvidia{number}', 0o666 | stat.S_IFCHR, os.makedev(1, 3))

    def _compile_plugin(self) -> Path:
        plugin = self.base / 'spank_container.so'
        subprocess.run(['gcc', '-Wall', '-Wextra', '-Werror', '-O1', '-shared', '-fPIC', '-o', plugin,
                        TEMPLATES / 'spank_container.c'], check=True)
        return plugin

    def _open_namespace(self) -> None:
        self._root = subprocess.Popen(
            ['setpriv', '--pdeathsig', 'KILL', 'unshare', '--net', '--mount', '--pid', '--uts', '--fork',
             '--kill-child', '--mount-proc', 'bash', TEMPLATES / 'login.sh', self.base, LOGIN_ADDRESS],
            env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, start_new_session=True)
        wait_for((self.base / 'run/namespace').exists, 10, 'the namespace of the cluster is there')

    def _start_services(self) -> None:
        run, munge, database = self.base / 'run', self.base / 'munge', self.base / 'database'
        self.run('munged', f'--key-file={munge}/key', f'--socket={run}/munge.sock', f'--pid-file={run}/munged.pid',
                 f'--seed-file={munge}/seed', f'--log-file={self.base}/log/munged.log', '--num-threads=10')
        self.run('mariadb-install-db', '--no-defaults', '--user=root', f'--datadir={database}', '--skip-test-db',
                 '--auth-root-authentication-method=socket', timeout=120)
        self._serve('mariadbd', '--no-defaults', '--user=root', f'--datadir={database}', f'--socket={run}/sql.sock',
                    '--bind-address=127.0.0.1', '--skip-log-bin', '--innodb-flush-log-at-trx-commit=0',
                    '--innodb-buffer-pool-size=64M')
        client = ('mariadb', '--no-defaults', f'--socket={run}/sql.sock', '-e')
        wait_for(lambda: self.works(*client, 'select 1'), 60, 'the database answers')
        self.run(*client, "create database accounting; create user slurm@'127.0.0.1' identified by 'slurm'; "
                          "grant all on accounting.* to slurm@'127.0.0.1'")
        self._serve('slurmdbd', '-D')
        wait_for(lambda: self.works('bash', '-c', 'echo > /dev/tcp/127.0.0.1/6819'), 60, 'slurmdbd answers')
        self._serve('slurmctld', '-D', '-f', self.base / 'slurm.conf')
        wait_for(lambda: self.works('scontrol', 'ping'), 30, 'slurmctld answers')

    def _serve(self, *command: str | Path) -> None:
        with (self.base / 'log' / f'{command[0]}.out').open('w') as log:
            self.popen(*command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def traces() -> dict[str, set[str]]:
    """Return what a cluster could leave behind on this machine: what is there before and after it must be the same.

    Files count by their names: on a machine that was never used, mount and buildah make folders of their own.
    """
    loops = Path('/sys/block').glob('loop*/loop/backing_file')
    ours = re.compile('slurm|munge|mysql|mariadb|mlperf')
    return {
        'mounts': {line.split()[1] for line in Path('/proc/mounts').read_text().splitlines()},
        'network links': {path.name for path in Path('/sys/class/net').iterdir()},
        'loop devices': {f'{path.parts[3]}: {path.read_text().strip()}' for path in loops},
        'files': {str(path) for place in ('/run', '/var/run', '/var/spool', '/etc')
                  for path in Path(place).glob('*') if ours.search(path.name)},
        'control groups': {str(path) for path in Path('/sys/fs/cgroup').glob('**/*slurm*')},
        'host name': {os.uname().nodename}}


def left_behind(before: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Return what is there now and was not before, or the other way round."""
    now = traces()
    return {kind: sorted(before[kind] ^ now[kind]) for kind in before if before[kind] != now[kind]}


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it did not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f'not within {seconds:.0f} s: {what}')
        time.sleep(0.1)
