"""The keeper of one replica: a small process that outlives the autoscaler, so that live traffic goes on without it.

Started as `python -I -S shim.py FOLDER` with the folder's lock as fd 3 and its control socket, already listening, as
fd 4. It runs the server that `FOLDER/replica.json` names, restarts it with back-off, writes its output to rotated files
and ends everything below it when it is told to, or when no owner has been connected for `orphan_seconds`.
It holds the lock as long as it lives; the server dies with it. Standard library only, little of it, and one
file, because isolated mode imports nothing from beside it: there is one such process per replica.

An owner that connects gets one JSON line with the status at once and after every change, and sends words, one a line:
`ready` (the server answers its probe), `restart`, `stop`.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import time

LOCK_FD, CONTROL_FD = 3, 4
MARK = "TIDEGATE_REPLICA"
"""Environment variable by which every process of a replica is known for certain: the replica's folder."""
_libc = ctypes.CDLL(None)


class RotatedLog:
    """Output as lines behind the time they were read, in `server.log`, `server.log.1`, …; old files go."""

    def __init__(self, path: str, size_bytes: int, files: int) -> None:
        self._path, self._limit, self._files = path, size_bytes, files
        self._partial = b""
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        """Append output; an unfinished line waits for its end, up to 64 KiB."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > 1 << 16:
            lines.append(self._partial)
            self._partial = b""
        if lines:
            now = time.time()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z "
            self._append(b"".join(stamp.encode() + line + b"\n" for line in lines))

    def end_line(self) -> None:
        """Nothing more will come: an unfinished line is one."""
        if self._partial:
            self.write(b"\n")

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def _append(self, data: bytes) -> None:
        try:
            if self._size and self._size + len(data) > self._limit:
                self._rotate()
            self._size += os.write(self._fd, data)
        except OSError:
            return  # a full disk must not stop the server

    def _rotate(self) -> None:
        os.close(self._fd)
        for number in range(self._files - 1, 0, -1):
            older = self._path if number == 1 else f"{self._path}.{number - 1}"
            if os.path.exists(older):
                os.replace(older, f"{self._path}.{number}")
        self._open()


def free_port(host: str, wanted: int) -> socket.socket:
    """A socket bound to `wanted` if it is free, else to a free port below the range the kernel hands out by itself,
    so that nobody gets it by chance between now and the server's own bind.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range", "rb") as file:
        low = int(file.read().split()[0])
    candidates = [wanted] if wanted else []
    candidates += [10_000 + int.from_bytes(os.urandom(4), "big") % (low - 10_000) for _ in range(50 * (low > 11_000))]
    for port in (*candidates, 0):
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
            bound.listen(1024)
        except OSError:
            bound.close()
        else:
            return bound
    raise OSError("no free port")


def descendants(root: int) -> list[int]:
    """Every process below `root`, zombies too."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    found = list(children.get(root, ()))
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def backoff_seconds(failures: int, first: float, most: float) -> float:
    """Wait before the next start: two quick tries, then `first` seconds, doubled up to `most`."""
    return 0.1 * failures if failures < 3 else min(most, first * 2.0 ** min(failures - 3, 30))


class Shim:
    """The server, its timers and its owners, on one selector."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.pid = os.getpid()
        with open(f"{folder}/replica.json", encoding="utf-8") as file:
            self.launch = json.load(file)["launch"]
        rules = self.launch["rules"]
        self.rules = rules
        self.log = RotatedLog(f"{folder}/server.log", rules["log_bytes"], rules["log_files"])
        self.selector = selectors.DefaultSelector()
        self.owners: dict[int, socket.socket] = {}
        self.words: dict[int, bytes] = {}
        self.server = 0
        self.output = -1
        self.port = 0
        self.runs = 0
        self.failures = 0
        self.exit_status: int | None = None
        self.started_ns = 0
        self.ready_at = 0.0
        self.stopping = False
        self.terminated = False
        now = time.monotonic()
        self.start_at: float | None = now
        self.kill_at: float | None = None
        self.alone_since: float | None = now

    # The loop ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until told to stop, or left alone for too long."""
        self._listen()
        while not (self.stopping and not self.server):
            if self.terminated:
                self._stop()
            self._on_time(time.monotonic())
            for key, _ in self.selector.select(self._patience(time.monotonic())):
                key.data(key.fileobj)
            self._reap()
        self._end_descendants()
        self._publish()

    def _listen(self) -> None:
        self.control = socket.socket(fileno=CONTROL_FD)
        self.control.setblocking(False)
        self.selector.register(self.control, selectors.EVENT_READ, self._on_owner)
        wake_read, wake_write = socket.socketpair()
        for end in (wake_read, wake_write):
            end.setblocking(False)
        self._wake = wake_write  # kept: the descriptor must stay open
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        self.selector.register(wake_read, selectors.EVENT_READ, lambda end: end.recv(4096))
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_terminate)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_terminate(self, _number: int, _frame: object) -> None:
        self.terminated = True  # the loop is awake by now and acts between two steps, never inside one

    def _patience(self, now: float) -> float:
        alone = None if self.alone_since is None else self.alone_since + self.rules["orphan_seconds"]
        times = [at for at in (self.start_at, self.kill_at, alone) if at is not None]
        return max(0.0, min(times, default=now + 3600) - now)

    def _on_time(self, now: float) -> None:
        if self.alone_since is not None and now >= self.alone_since + self.rules["orphan_seconds"]:
            self.alone_since = None
            self._stop()
        if self.start_at is not None and now >= self.start_at:
            self.start_at = None
            self._start()
        if self.kill_at is not None and now >= self.kill_at:
            self.kill_at = None
            self._signal(signal.SIGKILL)

    # Owners --------------------------------------------------------------------------------------------------------

    def _on_owner(self, _: object) -> None:
        try:
            owner, _address = self.control.accept()
        except OSError:
            return
        owner.setblocking(False)
        self.owners[owner.fileno()] = owner
        self.words[owner.fileno()] = b""
        self.alone_since = None
        self.selector.register(owner, selectors.EVENT_READ, self._on_words)
        self._tell(owner)

    def _on_words(self, owner: socket.socket) -> None:
        try:
            data = owner.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._forget(owner)
            return
        *words, self.words[owner.fileno()] = (self.words[owner.fileno()] + data).split(b"\n")
        acts = {b"stop": self._stop, b"restart": self._restart, b"ready": self._on_ready}
        for word in words:
            acts.get(word, lambda: None)()

    def _forget(self, owner: socket.socket) -> None:
        self.selector.unregister(owner)
        self.owners.pop(owner.fileno(), None)
        self.words.pop(owner.fileno(), None)
        owner.close()
        if not self.owners:
            self.alone_since = time.monotonic()

    def _status(self) -> bytes:
        state = "stopping" if self.stopping else ("running" if self.server else "waiting")
        status = {
            "state": state,
            "shim": self.pid,
            "server": self.server,
            "port": self.port,
            "runs": self.runs,
            "failures": self.failures,
            "exit_status": self.exit_status,
            "started_ns": self.started_ns,
            "ready": bool(self.ready_at),
        }
        return json.dumps(status).encode() + b"\n"

    def _tell(self, owner: socket.socket) -> None:
        try:
            owner.send(self._status())
        except OSError:
            self._forget(owner)  # an owner that does not listen connects again and gets the newest status

    def _publish(self) -> None:
        for owner in list(self.owners.values()):
            self._tell(owner)

    # The server ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        try:
            bound = free_port(self.launch["host"], self.port)
            self.port = bound.getsockname()[1]
            if not self.launch["listening_socket"]:
                bound.close()
            read, write = os.pipe()
            pid = os.fork()
        except OSError as error:
            self._failed(f"cannot start the server: {error}")
            return
        if pid == 0:
            self._become_server(write, bound)
        bound.close()  # the server's alone: when it dies, connections are refused at once
        os.close(write)
        os.set_blocking(read, False)
        self.output = read
        self.selector.register(read, selectors.EVENT_READ, self._on_output)
        self.server = pid
        self.runs += 1
        self.ready_at = 0.0
        self.started_ns = time.time_ns()
        self._publish()

    def _failed(self, message: str) -> None:
        self.log.write(message.encode() + b"\n")
        self.failures += 1
        rules = self.rules
        wait = backoff_seconds(self.failures, rules["backoff_first_seconds"], rules["backoff_most_seconds"])
        self.start_at = None if self.stopping else time.monotonic() + wait
        self._publish()

    def _become_server(self, output: int, bound: socket.socket) -> None:
        status = 127
        try:
            _libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: the server dies with its shim
            os.setpgid(0, 0)
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(output, 1)
            os.dup2(output, 2)
            port = str(self.port)
            argv = [word.replace("{port}", port).replace("{host}", self.launch["host"]) for word in self.launch["argv"]]
            env = {**self.launch["env"], "PORT": port, "SERVER_PORT": port, MARK: self.folder}
            if self.launch["listening_socket"]:  # the protocol of systemd's socket activation, sd_listen_fds(3)
                os.dup2(bound.fileno(), 3)
                env |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
            if os.getppid() != self.pid:
                os._exit(0)
            os.chdir(self.launch["cwd"])
            os.execvpe(argv[0], argv, env)  # noqa: S606 -- a command is a list of words here, never a shell line
        except OSError as error:
            os.write(2, f"cannot run {self.launch['argv'][0]}: {error}\n".encode())
        finally:
            os._exit(status)

    def _on_output(self, fd: int) -> bool:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        if data:
            self.log.write(data)
        else:
            self._close_output()
        return bool(data)

    def _close_output(self) -> None:
        if self.output >= 0:
            self.selector.unregister(self.output)
            os.close(self.output)
            self.output = -1
            self.log.end_line()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.server:
                self._on_exit(os.waitstatus_to_exitcode(status))

    def _on_exit(self, exit_status: int) -> None:
        self._end_descendants()  # workers of a server that died would keep its port
        while self.output >= 0 and self._on_output(self.output):
            continue  # what it said last
        self._close_output()
        self.server, self.kill_at, self.exit_status = 0, None, exit_status
        if self.ready_at and time.monotonic() - self.ready_at >= self.rules["healthy_seconds"]:
            self.failures = 0
        self.ready_at = 0.0
        if not self.stopping:
            self._failed(f"the server ended with {exit_status}")

    def _on_ready(self) -> None:
        if self.server and not self.ready_at:
            self.ready_at = time.monotonic()
            self._publish()

    def _restart(self) -> None:
        if self.server and self.kill_at is None:
            self._signal(signal.SIGTERM)
            self.kill_at = time.monotonic() + self.rules["grace_seconds"]

    def _stop(self) -> None:
        if not self.stopping:
            self.stopping = True
            self.start_at = None
            self._restart()
            self._publish()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.server, number)
            os.killpg(self.server, signal.SIGCONT)
        except ProcessLookupError:
            return

    def _end_descendants(self) -> None:
        deadline = time.monotonic() + 5
        while (below := descendants(self.pid)) and time.monotonic() < deadline:
            for pid in below:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    continue
            except ChildProcessError:
                continue
            time.sleep(0.005)


def main() -> None:
    """Adopt the descendants, guard the descriptors, keep the server."""
    for fd in (LOCK_FD, CONTROL_FD):
        os.set_inheritable(fd, False)
    _libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: a server's orphans come to the shim
    Shim(sys.argv[1]).run()


if __name__ == "__main__":
    main()
