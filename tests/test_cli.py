"""The command line: names, exit status, streams; and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import psutil
import pytest
from click.testing import CliRunner, Result
from distributed import Client
from files import link_many, subject_files
from waiting import ending, wait_until

import gz3d_zarr
from gz3d_zarr.cli import main
from gz3d_zarr.cli.options import nest
from gz3d_zarr.datamodel.layout import LayoutOptions
from gz3d_zarr.datamodel.option_fields import option_specs
from gz3d_zarr.pipeline.failure_policy import FailurePolicy
from gz3d_zarr.progress import Progress, format_rate, show_progress
from gz3d_zarr.sources.options import FetchOptions, SelectionOptions

INTERRUPTED = "Interrupted. To continue, run the same command with --resume."


def run(*args: object, input: str | None = None) -> Result:  # noqa: A002 - click's name
    return CliRunner().invoke(main, [str(arg) for arg in args], input=input)


def command(*args: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "gz3d_zarr", *map(str, args)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_build_as_a_person_runs_it(archive: Path, store: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    subject_files(archive)[0].write_bytes(b"<html>")
    result = command(
        "build", "archive", "g.zarr", "--shard-size", "4", "--workers", "2",
        cwd=tmp_path, TMPDIR=str(scratch),
    )  # fmt: skip
    assert result.returncode == 3, result.stderr
    assert "17 of 18 subjects are ok" in result.stdout
    assert subject_files(archive)[0].name in result.stdout
    assert "18 of 18 subjects" in result.stderr
    assert "Traceback" not in result.stderr
    assert "distributed" not in result.stderr
    assert list(scratch.iterdir()) == []
    one = gz3d_zarr.open_store(tmp_path / "g.zarr")
    two = gz3d_zarr.open_store(store)
    ok = one["status"].values == 0
    assert ok.sum() == 17
    assert (one["image"].values[ok] == two["image"].values[ok]).all()


@pytest.fixture
def here(client: Client) -> Any:
    """Run commands on the tests' client, as dask's current one."""
    with client.as_current():
        yield client


def test_build_and_info_print_json(simulated: Path, tmp_path: Path, here: Client) -> None:
    result = run("build", simulated, tmp_path / "g.zarr", "--tiny", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["subjects"], report["ok"], report["failures"]) == (5, 5, [])
    info = json.loads(run("info", tmp_path / "g.zarr", "--json").stdout)
    assert info["status"]["ok"] == 5
    arrays = {array["name"]: array for array in info["arrays"]}
    assert arrays["image"]["shape"] == [5, 525, 525, 3]
    assert arrays["image"]["chunk"] == [1, 525, 525, 3]
    assert arrays["image"]["shards"] == 1
    assert arrays["segmentation"]["chunk"] == [8, 4, 525, 525]
    assert arrays["marks/annotations"]["shape"] == [5]
    assert arrays["thumbnail/image"]["raw_bytes"] == 5 * 75 * 75 * 3
    assert {"clusters/star_x", "catalogue/reason", "class"} <= set(arrays)
    stored = [path for path in (tmp_path / "g.zarr").rglob("*") if path.is_file()]
    assert info["objects"] == len(stored)
    assert info["stored_bytes"] == sum(path.stat().st_size for path in stored)
    assert info["attrs"]["source"] == simulated.name
    text = run("info", tmp_path / "g.zarr").stdout
    assert "5: 5 ok" in text
    assert "manifest_digest" in text


def test_options_reach_the_plan(simulated: Path, tmp_path: Path, here: Client) -> None:
    result = run(
        "plan", simulated, tmp_path / "g.zarr", "--limit", 7, "--order", "name", "--nside", 32,
        "--shard-size", 2, "--codec", "compact", "--max-memory", "3GB", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    expected = {
        "subjects": 7, "order": "name", "nside": 32, "shard_size": 2, "codec": "compact",
        "shards": 4, "worker_memory_limit": 3_000_000_000,
    }  # fmt: skip
    assert {name: plan[name] for name in expected} == expected
    assert list(tmp_path.iterdir()) == []
    chosen = run(
        "plan", simulated, tmp_path / "g.zarr", "--ids", "-", "--json",
        input="1-600002  # twins\n\n14000000\n",
    )  # fmt: skip
    assert json.loads(chosen.stdout)["subjects"] == 3
    (tmp_path / "t.csv").write_text("mangaid,plateifu\n1-600002,8623-12701\n")
    for option in ("--table", "--ids-table"):
        named = run(
            "plan", simulated, tmp_path / "g.zarr", "--ids", "-", option, tmp_path / "t.csv",
            "--json", input="8623-12701",
        )  # fmt: skip
        assert json.loads(named.stdout)["subjects"] == 2
    (tmp_path / "t.csv").unlink()
    voted = run("plan", simulated, tmp_path / "g", "--min-vote-fraction", "0.5", "--json")
    assert 0 < json.loads(voted.stdout)["subjects"] < 18
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").write_text("x")
    refused = run("plan", simulated, tmp_path / "taken")
    assert refused.exit_code == 1
    assert "build would refuse" in refused.stdout


def test_storage_options_nest(monkeypatch: pytest.MonkeyPatch, simulated: Path) -> None:
    seen: dict[str, Any] = {}

    def plan(source: str, store: str, **options: Any) -> Any:
        seen.update(options)
        raise gz3d_zarr.UsageError("enough")

    monkeypatch.setattr(gz3d_zarr, "plan", plan, raising=False)
    result = run(
        "plan", simulated, "s3://bucket/g.zarr", "--endpoint-url", "http://127.0.0.1:1",
        "--profile", "me", "--anon", "--storage-option", "config_kwargs.retries.max_attempts=3",
        "--storage-option", "use_ssl=false", "--source-option", "block_size=0",
    )  # fmt: skip
    assert result.exit_code == 2
    assert seen["storage_options"] == {
        "endpoint_url": "http://127.0.0.1:1", "profile": "me", "anon": True, "use_ssl": False,
        "config_kwargs": {"retries": {"max_attempts": 3}},
    }  # fmt: skip
    assert seen["source_options"] == {"block_size": 0}


def options_of(*pairs: str) -> dict[str, Any]:
    context = click.Context(main)
    return nest(context, click.Option(["--storage-option"]), pairs)


def test_options_that_are_text_stay_text() -> None:
    names = ("key", "secret", "token", "password", "username", "headers.X-Id", "a.headers.N")
    for name in names:
        *parents, last = name.split(".")
        for given, expected in (("12345678", "12345678"), ("true", "true"), ('"7"', "7")):
            found = options_of(f"{name}={given}")
            for parent in parents:
                found = found[parent]
            assert found == {last: expected}
    assert options_of('token={"type": "x"}', "n=3") == {"token": {"type": "x"}, "n": 3}


def test_option_that_nests_in_a_value_is_named() -> None:
    for pairs in (("a=1", "a.b.c=2"), ("a=1", "a.b=2"), ("a.b=x", "a.b.c.d=2")):
        with pytest.raises(click.BadParameter, match="nests in .* which already has a value"):
            options_of(*pairs)


@pytest.mark.parametrize("command", [["build", "SOURCE"], ["info"]])
def test_unreachable_s3_is_one_line(
    simulated: Path, monkeypatch: pytest.MonkeyPatch, here: Client, command: list[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "made-up")
    places = [str(simulated) if word == "SOURCE" else word for word in command]
    result = run(
        *places, "s3://bucket/g.zarr", "--endpoint-url", "http://127.0.0.1:9",
        "--storage-option", "config_kwargs.retries.max_attempts=0",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "could not connect to the endpoint http://127.0.0.1:9" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "made-up" not in result.stderr


def test_simulate_says_where(tmp_path: Path) -> None:
    result = run("simulate", 2, tmp_path / "a", "--seed", 3)
    assert result.exit_code == 0
    assert len(subject_files(tmp_path / "a")) == 2
    assert str(tmp_path / "a") in result.stdout


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["build", "nowhere", "g.zarr"], 1, "there is no source"),
        (["build", ".", "g.zarr"], 1, "has no subject files"),
        (["build", "SOURCE", "g.zarr", "--limit", "0"], 2, "limit is 0"),
        (["build", "SOURCE", "g.zarr", "--codec", "jpeg"], 2, "'jpeg' is not one of"),
        (["build", "SOURCE", "g.zarr", "--storage-option", "x"], 2, "value 1 is not KEY=VALUE"),
        (
            ["build", "SOURCE", "g.zarr", "--storage-option", "secret:hunter2"],
            2,
            "value 1 is not KEY=VALUE",
        ),
        (["build", "SOURCE", "g.zarr", "--nonsense"], 2, "No such option"),
        (["build", "SOURCE", "STORE"], 1, "holds a complete store; use --overwrite"),
        (["build", "SOURCE", "file/g.zarr", "--limit", "1"], 1, "cannot be written"),
        (["info", "nowhere"], 1, "there is no Zarr 3 store at"),
        (["info", "nowhere", "--anon"], 2, "is a local path, and storage options"),
        (["build", "SOURCE", "x" * 300, "--limit", "1"], 1, "File name too long"),
        (["build", "SOURCE", "g.zarr", "--ids", "binary"], 2, "binary is not text"),
        (["plan", "SOURCE", "g.zarr", "--resume", "--overwrite"], 2, "choose one"),
        (["plan", "nosuch://x/files.txt", "g.zarr"], 1, "nosuch://x/files.txt cannot be read"),
        (["info", "s3://b/g", "--storage-option", "nosuch=1"], 1, "unexpected keyword"),
        (["simulate", "1", "a", "--seed", "-1"], 2, "-1 is not in the range"),
        (["build", "SOURCE", "s3:/b/g.zarr"], 2, "lacks a slash: write 's3://b/g.zarr'"),
        (["build", "SOURCE", "g.zarr", "--anon"], 2, "is a local path, and storage options"),
        (["build", "SOURCE", "g.zarr", "--scheduler", "x:1"], 2, "scheduler is 'x:1', expected"),
        (["build", "SOURCE", "abc://g.zarr"], 2, "the store abc://g.zarr cannot be reached"),
        (["simulate", "0", "a"], 2, "0 is not in the range"),
        (["build", "a.fits.gz", "b.fits.gz", "g.zarr"], 2, "put quotes around a glob"),
        (["plan", "SOURCE", "g.zarr", "--on-error", "never"], 2, "is not one of"),
        (["plan", "SOURCE", "g.zarr", "--max-failures", "x"], 2, "is not a valid integer"),
        (["plan", "SOURCE", "g.zarr", "--connections", "0"], 2, "connections is 0"),
        (["verify", "STORE", "--limit", "2"], 2, "No such option"),
    ],
)
def test_errors_are_one_line_with_their_status(
    simulated: Path,
    store: Path,
    here: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    places = {"SOURCE": str(simulated), "STORE": str(store)}
    result = run(*(places.get(arg, arg) for arg in args))
    assert result.exit_code == status
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("at_start", "number"),
    [("default_int_handler", signal.SIGINT), ("SIG_IGN", signal.SIGTERM)],
    ids=["Ctrl-C", "a background job's end"],
)
def test_interrupt_ends_cleanly_and_says_how_to_go_on(
    archive: Path,
    tmp_path: Path,
    here: Client,
    monkeypatch: pytest.MonkeyPatch,
    at_start: str,
    number: signal.Signals,
) -> None:
    source = link_many(archive, tmp_path / "many", 48)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    arguments = ["build", "many", "g.zarr", "--shard-size", "2"]
    # The tests may themselves run in the background, where shells have SIGINT ignored.
    code = f"import signal; signal.signal(signal.SIGINT, signal.{at_start}); "
    code += "from gz3d_zarr.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--workers", "1"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as a terminal gives
    )
    receipts = tmp_path / "g.zarr" / ".gz3d" / "receipts"
    with ending(process):
        wait_until(lambda: list(receipts.glob("0*.json")) or process.poll() is not None)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert out == ""
    assert errors.strip().splitlines()[-1] == INTERRUPTED
    assert "Stopping: waiting for the tasks at work to end\n" in errors
    assert "Traceback" not in errors
    assert list(scratch.iterdir()) == []
    done = len(list(receipts.glob("0*.json")))
    assert 0 < done < 24
    with pytest.raises(gz3d_zarr.IncompleteStoreError):
        gz3d_zarr.open_store(tmp_path / "g.zarr")
    monkeypatch.chdir(tmp_path)
    again = run(*arguments, "--resume")
    assert again.exit_code == 0, again.output
    assert f"Read {48 - 2 * done} subjects" in again.stdout
    assert gz3d_zarr.open_store(tmp_path / "g.zarr").sizes["subject"] == len(subject_files(source))


def test_interrupt_while_workers_start_is_not_lost(archive: Path, tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from gz3d_zarr.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "build", str(archive), "g.zarr", "--workers", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with ending(process):
        wait_until(
            lambda: [*filter(is_worker, children(process.pid))] or process.poll() is not None
        )
        os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert out == ""
    assert errors.strip().splitlines()[-1] == INTERRUPTED
    assert "Traceback" not in errors


def children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children()
    return []


def is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "--multiprocessing-fork" in process.cmdline()
    return False


def test_help_is_complete() -> None:
    for name, subcommand in main.commands.items():
        text = run(name, "--help").stdout
        assert subcommand.help is not None
        for parameter in subcommand.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert parameter.opts[0] in text
    assert gz3d_zarr.__version__ in run("--version").stdout


def leaf_commands() -> dict[str, click.Command]:
    commands = dict(main.commands)
    export = commands.pop("export")
    assert isinstance(export, click.Group)
    return commands | {f"export {name}": command for name, command in export.commands.items()}


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("name", leaf_commands())
def test_help_fits_a_terminal_and_ends_with_examples(name: str, columns: int) -> None:
    result = CliRunner().invoke(main, [*name.split(), "--help"], terminal_width=columns)
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    examples = lines[lines.index("Examples:") + 1 :]
    assert len(examples) == 3
    for example in examples:
        words = shlex.split(example)
        assert words[: 1 + len(name.split())] == ["gz3d-zarr", *name.split()]
        arguments = words[1 + len(name.split()) :]
        arguments = arguments[: arguments.index("&&")] if "&&" in arguments else arguments
        context = click.Context(main)
        if "--ids" not in arguments:  # a file that is opened
            leaf_commands()[name].make_context(name, arguments, parent=context)


def test_help_lists_options_in_sections() -> None:
    text = run("build", "--help").stdout
    titles = [line for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == [
        "Selection:", "Layout:", "Source:", "Store and S3:", "Workers:", "Recovery:", "Other:",
        "Examples:",
    ]  # fmt: skip
    _, _, planned = run("plan", "--help").stdout.partition("Selection:")
    for option in ("--on-error", "--max-failures", "--cache ", "--connections "):
        assert f"  {option}" in text
        assert f"  {option}" not in planned
    for option in ("--resume", "--overwrite", "--update", "--retry-failed", "--max-memory"):
        assert f"  {option}" in planned


def test_options_are_declared_once() -> None:
    groups = (SelectionOptions, LayoutOptions, FetchOptions, FailurePolicy)
    declared = {name: spec for group in groups for name, spec in option_specs(group).items()}
    for command in leaf_commands().values():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name in declared:
                spec, default = declared[parameter.name]
                assert parameter.help == spec.help
                if default:
                    assert parameter.default == default
    build = {parameter.name for parameter in main.commands["build"].params}
    assert build >= set(declared)


def test_demo_goes_the_whole_way(tmp_path: Path, here: Client) -> None:
    from gz3d_zarr.demo import run_demo

    said: list[str] = []
    report = run_demo(tmp_path / "demo", said.append, subjects=6)
    assert report.ok == 6
    assert (tmp_path / "demo" / "gz3d.png").stat().st_size > 50_000
    text = "\n".join(said)
    assert "<xarray.Dataset>" in text
    assert "opened in" in text
    run_demo(tmp_path / "demo", said.append, subjects=6)  # again, over the first


class Terminal:
    """A stream that says it is a terminal."""

    def __init__(self, terminal: bool) -> None:
        self.text = ""
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = [
        Progress(0, 10, 0, 0),
        Progress(4, 10, 4, 0),
        Progress(8, 10, 4, 1),
        Progress(10, 10, 2, 1),
    ]
    bar, lines = Terminal(True), Terminal(False)
    for stream in (bar, lines):
        with show_progress(stream) as show:  # type: ignore[arg-type]
            for state in states:
                show(state)
    assert "10/10" in bar.text
    assert "1 failed" in bar.text
    assert "\r" in bar.text
    assert lines.text.count("\n") == 1
    assert lines.text.startswith("10 of 10 subjects, ")
    assert lines.text.endswith(" per second, 1 failed\n")
    monkeypatch.setattr("gz3d_zarr.progress.LINE_SECONDS", 0.0)
    often = Terminal(False)
    with show_progress(often) as show:  # type: ignore[arg-type]
        for state in states:
            show(state)
    assert often.text.count("\n") == 3
    assert " s left, 1 failed\n" in often.text


def test_estimates_leave_out_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers take 100 s to start; then a subject takes one."""
    now = [0.0]
    monkeypatch.setattr("gz3d_zarr.progress.time.monotonic", lambda: now[0])
    stream = Terminal(False)
    with show_progress(stream) as show:  # type: ignore[arg-type]
        show(Progress(0, 100, 0, 0))
        now[0] = 100.0
        show.show_partial(10)
        now[0] = 120.0
        show.show_partial(30)
        show.show_partial(5)  # a shard that is begun again
        now[0] = 140.0
        show(Progress(50, 100, 50, 0))
        now[0] = 190.0
        show(Progress(100, 100, 50, 0))
    assert stream.text.splitlines() == [
        "10 of 100 subjects",
        "30 of 100 subjects, 1.0 per second, 70 s left",
        "50 of 100 subjects, 1.0 per second, 50 s left",
        "100 of 100 subjects, 1.0 per second",
    ]


def test_the_last_line_waits_for_the_last_shard() -> None:
    """Its subjects are done before it is whole, and only then is it known how many failed."""
    stream = Terminal(False)
    with show_progress(stream) as show:  # type: ignore[arg-type]
        show(Progress(0, 8, 0, 0))
        show.show_partial(8)
        show(Progress(8, 8, 8, 3))
    assert stream.text.count("\n") == 1
    assert stream.text.startswith("8 of 8 subjects")
    assert stream.text.endswith(", 3 failed\n")


def test_no_rate_is_shown_as_zero() -> None:
    assert [format_rate(r) for r in (12.34, 9.96, 0.1, 0.04)] == [
        "12", "10.0", "0.1", "less than 0.1",
    ]  # fmt: skip


def test_progress_true_shows_subjects_before_their_shard_is_whole(
    simulated: Path, tmp_path: Path, client: Client, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("gz3d_zarr.progress.LINE_SECONDS", 0.0)
    monkeypatch.setattr("gz3d_zarr.pipeline.live_progress.TICK_SECONDS", 0.0)
    gz3d_zarr.build(simulated, tmp_path / "g.zarr", client, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2  # one shard of 18 subjects
    assert lines[-1].startswith("18 of 18 subjects")
    assert sorted(lines, key=lambda line: int(line.split()[0])) == lines
    with pytest.raises(gz3d_zarr.UsageError, match="progress is str, expected a callable or True"):
        gz3d_zarr.build(simulated, tmp_path / "h.zarr", client, progress="yes")  # type: ignore[arg-type]


def test_errors_with_json_are_json(tmp_path: Path) -> None:
    result = run("info", tmp_path / "nowhere", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["type"] == "StoreError"
    assert found["error"].startswith("there is no Zarr 3 store at")
    assert result.stderr == f"Error: {found['error']}\n"
    assert run("info", tmp_path / "nowhere").stdout == ""
    for arguments in (["info"], ["info", "g", "h"], ["build", "f", "g", "--codec", "best"]):
        result = run(*arguments, "--json")
        assert result.exit_code == 2
        found = json.loads(result.stdout)
        assert found["type"] == "UsageError"
        assert result.stderr.endswith(f"Error: {found['error']}\n")
        assert run(*arguments).stdout == ""


def test_list_of_commands_has_whole_sentences() -> None:
    for group in (["--help"], ["export", "--help"]):
        _, _, commands = run(*group).stdout.partition("Commands:\n")
        assert commands
        assert "..." not in commands


def test_info_begins_with_the_summary_and_fits_a_terminal(store: Path) -> None:
    lines = run("info", store).stdout.splitlines()
    assert lines[0].startswith("store ")
    assert lines.index("") < [line.split()[:1] for line in lines].index(["image"])
    assert [line for line in lines[1:] if len(line) > 80] == []


def test_verify_lists_failed_checks_only(store: Path, tmp_path: Path, here: Client) -> None:
    own = Path(shutil.copytree(store, tmp_path / "g.zarr"))
    path = own / "image/c/0/0/0/0"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    report = json.loads(run("verify", own, "--json", "--failed-only").stdout)
    assert report["checks"]
    assert not any(check["passed"] for check in report["checks"])
    assert json.loads(run("verify", store, "--json", "--failed-only").stdout)["checks"] == []
    assert len(json.loads(run("verify", store, "--json").stdout)["checks"]) > 10


def test_reports_print_as_the_command_line_does(store: Path, client: Client) -> None:
    report = gz3d_zarr.verify(store, client=client)
    assert str(report) == report.to_text()
    assert report._repr_html_().startswith("<pre>test ")
