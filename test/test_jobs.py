"""Shards made here, by processes, on Ray: the same bytes; workers that die; addresses."""

import contextlib
import json
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
from fakes.dying import Dying
from fakes.s3_server import s3_server
from fakes.scenes import PATH, write_relief
from fakes.texture import texture
from test_gaussians_pairs import scene as scene  # the fixture: a square before a wall
from test_gaussians_pairs import write_scene

from l2m_ros.cli import main
from l2m_ros.errors import BackendUnavailable, InvalidInput
from l2m_ros.workshop.evaluation.benchmark import BenchmarkOptions
from l2m_ros.workshop.jobs import runners
from l2m_ros.workshop.jobs.runners import Here, Processes, RayCluster, runner_of
from l2m_ros.workshop.jobs.store import Folder, Url, store_of
from l2m_ros.workshop.lifting.lift import LiftOptions, lift_folder
from l2m_ros.workshop.lifting.shards import read_shard

SPLAT = ["--views", "8", "--size", "80x60", "--per-shard", "1", "--seed", "3"]
OPTIONS = LiftOptions(width=64, height=48, photographs_per_shard=1, workers=1)


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), texture(96, 72, index))
    (folder / "damaged.png").write_bytes(b"no picture")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_process_costs_its_piece_only(tmp_path):
    done = dict(Processes(2).run(Dying(tmp_path, 1), range(5)))
    assert done == {n: n * n for n in range(5)}
    assert len(list(tmp_path.glob("death*"))) == 1


@pytest.mark.slow
def test_a_piece_that_always_kills_its_process_ends_the_run_in_words(tmp_path):
    with pytest.raises(InvalidInput, match="lost 4 times"):
        dict(Processes(1).run(Dying(tmp_path, 99), range(5)))


@pytest.mark.slow
def test_processes_make_the_same_shards(photographs, tmp_path):
    reports = [
        lift_folder(photographs, tmp_path / str(n), OPTIONS, runner=runner_of(None, n))
        for n in (1, 2)
    ]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert [r.photographs for r in reports] == [4, 4]
    assert [name for name, _ in reports[1].skipped] == ["damaged.png"]


def test_a_file_address_is_its_folder_and_any_other_gets_the_same_shards(photographs, tmp_path):
    lift_folder(photographs, tmp_path / "folder", OPTIONS)
    lift_folder(photographs, f"file://{tmp_path}/by address", OPTIONS)
    assert contents(tmp_path / "by address") == contents(tmp_path / "folder")
    address = f"memory://{tmp_path}/shards"
    report = lift_folder(photographs, address, OPTIONS)
    assert report.shards_written == 5
    store = store_of(address)
    for name, data in contents(tmp_path / "folder").items():
        assert store.read(name) == data, name
    again = lift_folder(photographs, address, OPTIONS)
    assert (again.shards_kept, again.shards_written) == (5, 0)
    whole = store.read("shard-000001.tar")
    store.write("shard-000001.tar", whole[:-512])  # an upload that was cut
    assert lift_folder(photographs, address, OPTIONS).shards_written == 1
    assert store.read("shard-000001.tar") == whole
    with pytest.raises(InvalidInput, match="other options"):
        lift_folder(photographs, address, LiftOptions(photographs_per_shard=2))


def test_addresses_in_words(tmp_path):
    assert isinstance(store_of(tmp_path), Folder) and isinstance(store_of("s3://a/b"), Url)
    with pytest.raises((InvalidInput, BackendUnavailable), match="nonsense://a"):
        store_of("nonsense://a").prepare()
    assert isinstance(runner_of(None, 1), Here) and runner_of("auto", 1) == RayCluster("auto")
    with pytest.raises(InvalidInput, match="at least 1"):
        Processes(0)


def test_ray_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(runners.__dict__["__builtins__"], "__import__", _without_ray)
    with pytest.raises(BackendUnavailable, match=r"l2m_ros\[scale\]"):
        next(RayCluster("auto").run(abs, [1]))


@pytest.mark.parametrize("failing", [1, runners.STARTS])
def test_ray_that_does_not_come_up_is_started_again_then_named(failing, monkeypatch):
    """On a busy machine Ray gives up on its own processes, and raises what it likes."""
    tried = []

    def init(address, **options):
        tried.append(address)
        if address == "auto":
            raise ConnectionError("no cluster")
        if tried.count("local") <= failing:
            raise Exception("The current node timed out during startup.")

    ray = SimpleNamespace(init=init, is_initialized=bool, shutdown=lambda: tried.append("ended"))
    monkeypatch.setitem(sys.modules, "ray", ray)
    if failing == 1:
        assert RayCluster("auto")._joined() is ray
        assert tried == ["auto", "local", "ended", "local"]
        return
    with pytest.raises(BackendUnavailable, match=r"timed out during startup.*--processes N"):
        RayCluster("auto")._joined()
    assert tried == ["auto", *["local", "ended"] * failing]


def _without_ray(name, *args, _import=__import__, **kwargs):
    if name == "ray":
        raise ImportError(name)
    return _import(name, *args, **kwargs)


def test_evaluation_in_pieces_has_the_same_figures_and_goes_on(tmp_path, capsys):
    write_relief(tmp_path / "scenes" / "relief", PATH[:2])
    command = ["evaluate", str(tmp_path / "scenes"), "--matcher", "orb,akaze", "--json"]

    def figures(*more):
        assert main([*command, *more]) == 0
        found = json.loads(capsys.readouterr().out)
        return [{k: v for k, v in row.items() if "ms" not in k} for row in found["scenes"]]

    whole = figures()
    keep = tmp_path / "kept"
    assert figures("--keep", str(keep)) == whole and len(whole) == 2
    first, second = sorted(
        keep.glob("*.json"), key=lambda path: json.loads(path.read_text())["matcher"]
    )
    row = json.loads(second.read_text())
    second.write_text(json.dumps({**row, "pairs": 77}))  # a kept piece is not measured again
    first.unlink()
    assert sorted(r["pairs"] for r in figures("--keep", str(keep))) == [whole[0]["pairs"], 77]
    assert main([*command, "--processes", "2", "--plots", str(tmp_path)]) == 2
    path = tmp_path / "scenes/relief/pairs.json"  # another truth: the kept rows are not its own
    entries = json.loads(path.read_text())
    for entry in entries:
        entry["T_b_a"][0][3] += 0.5
    path.write_text(json.dumps(entries))
    assert sorted(r["pairs"] for r in figures("--keep", str(keep))) == [whole[0]["pairs"]] * 2


def test_a_model_that_was_trained_again_is_not_the_one_that_was_measured(monkeypatch):
    from l2m_ros.workshop.evaluation import distributed

    card = SimpleNamespace(files={"weights": SimpleNamespace(sha256="a" * 64)})
    monkeypatch.setattr(distributed, "find_card", lambda name: card)
    scene = SimpleNamespace(name="s", folder="s", meta={}, pairs=[])
    job = distributed.EvaluationJob((scene,), ("runs/mine/model",), BenchmarkOptions())
    first = job._name(0)
    assert job._name(0) == first
    card.files["weights"].sha256 = "b" * 64
    distributed._weights_of.cache_clear()
    assert job._name(0) != first


# --- an object store --------------------------------------------------------------------------


@pytest.fixture
def s3(monkeypatch):
    """A server on this machine that speaks S3, and the environment that s3fs reads."""
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()  # one that knows another test's server
    with s3_server() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield server


@pytest.mark.slow
def test_shards_in_an_object_store_are_those_of_a_folder(s3, photographs, tmp_path, capsys):
    """Written by two processes, over HTTP; what is there is kept, what was cut is made again."""
    lift_folder(photographs, tmp_path / "folder", OPTIONS)
    command = ["lift", str(photographs), "--out", "s3://bucket/some/lifted", "--size", "64x48"]
    command += ["--per-shard", "1", "--processes", "2"]
    assert main(command) == 0
    assert "in 5 new shards" in capsys.readouterr().out
    made = {key.removeprefix("bucket/some/lifted/"): data for key, data in s3.objects.items()}
    expected = contents(tmp_path / "folder")
    assert {k: v for k, v in made.items() if k.endswith(".tar")} == {
        k: v for k, v in expected.items() if k.endswith(".tar")
    }
    assert set(made) == set(expected)
    name = "bucket/some/lifted/shard-000001.tar"
    whole = s3.objects[name]
    s3.objects[name] = whole[:-512]
    del s3.puts[:]
    assert main(command) == 0
    assert "1 new shards, 4 shards kept" in capsys.readouterr().out
    assert s3.objects[name] == whole
    assert {key for key in s3.puts if key.endswith(".tar")} == {"some/lifted/shard-000001.tar"}


@pytest.mark.slow
def test_pairs_of_a_scene_go_to_an_object_store(s3, scene, tmp_path):
    path = write_scene(tmp_path / "scene.ply", scene)
    command = ["splat", "pairs", str(path), *SPLAT]
    assert main([*command, "--out", str(tmp_path / "folder")]) == 0
    assert main([*command, "--out", "s3://bucket/pairs"]) == 0
    made = {key.removeprefix("bucket/pairs/"): data for key, data in s3.objects.items()}
    assert made == contents(tmp_path / "folder")


# --- a cluster --------------------------------------------------------------------------------


PORTS = "metrics_agent_port", "metrics_export_port", "runtime_env_agent_port"


def ray_node(cores: int) -> dict:
    """Options of a node that waits for few of its Python processes: it is told their ports.

    Ray ends a node where one takes over 15 s to say which port it took, as on a busy machine.
    """
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in PORTS]
        ports = [one.getsockname()[1] for one in taken]
    return {"num_cpus": cores, "include_dashboard": False} | dict(zip(PORTS, ports, strict=True))


def _without_dashboard(start):
    """Ray does not tell its node the port of the dashboard's agent, though the node has an option
    for it; that agent takes longest to start where aiohttp is installed."""

    def told(command, process_type, **how):
        port = ["--dashboard_agent_listen_port=1"] if process_type == "raylet" else []
        return start([*command, *port], process_type, **how)

    return told


@pytest.fixture(scope="module")
def cluster():
    """Two workers of this machine, joined; they see this package and these tests."""
    pytest.importorskip("ray")
    import ray
    from ray._private import services
    from ray.cluster_utils import Cluster

    here = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{here.parent}:{here}")
        for name, value in runners.PATIENCE.items():
            patch.setenv(name, value)
        patch.setattr(services, "start_ray_process", _without_dashboard(services.start_ray_process))
        cluster = Cluster(initialize_head=True, head_node_args=ray_node(2))
        try:
            ray.init(address=cluster.address, log_to_driver=False)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)  # Ray takes minutes to start on a busy machine
def test_two_ray_workers_make_the_same_shards_and_one_that_is_killed_loses_nothing(
    cluster, photographs, tmp_path
):
    here = lift_folder(photographs, tmp_path / "here", OPTIONS)
    there = lift_folder(photographs, tmp_path / "there", OPTIONS, runner=RayCluster("auto"))
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert (here.photographs, here.skipped) == (there.photographs, there.skipped)
    done = dict(RayCluster("auto").run(Dying(tmp_path, 1), range(5)))
    assert done == {n: n * n for n in range(5)}
    assert (tmp_path / "death0").exists()
    with pytest.raises(InvalidInput, match="no number"):
        dict(RayCluster("auto").run(_refusing, [1]))


def _refusing(number):
    raise InvalidInput("no number")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pairs_and_evaluation_are_the_same_on_ray_and_on_two_processes(
    cluster, scene, tmp_path, capsys
):
    path = write_scene(tmp_path / "scene.ply", scene)
    command = ["splat", "pairs", str(path), *SPLAT]
    ways = {"here": [], "processes": ["--processes", "2"], "ray": ["--ray", "auto"]}
    for name, way in ways.items():
        assert main([*command, "--out", str(tmp_path / name), *way]) == 0
    assert len(contents(tmp_path / "here")) == 9  # four shards, their summaries, splat.json
    assert contents(tmp_path / "ray") == contents(tmp_path / "processes")
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
    for number in range(2):
        write_relief(tmp_path / "scenes" / f"relief{number}", PATH[number : number + 2])
    command = ["evaluate", str(tmp_path / "scenes"), "--matcher", "orb,akaze", "--json"]
    capsys.readouterr()
    figures = {}
    for name, way in ways.items():
        assert main([*command, *way]) == 0
        rows = json.loads(capsys.readouterr().out)["scenes"]
        figures[name] = [{k: v for k, v in row.items() if "ms" not in k} for row in rows]
    assert len(figures["here"]) == 4
    assert figures["ray"] == figures["processes"] == figures["here"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_that_goes_away_half_way_loses_nothing(cluster, photographs, tmp_path):
    many = LiftOptions(width=320, height=240, views=4, photographs_per_shard=1, workers=1)
    lift_folder(photographs, tmp_path / "here", many)
    runner = _LosesANode(RayCluster("auto"), cluster, cluster.add_node(**ray_node(1)))
    lift_folder(photographs, tmp_path / "there", many, runner=runner)
    assert runner.lost
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


class _LosesANode:
    """Takes a node away after the first shard."""

    def __init__(self, runner, cluster, node):
        self.runner, self.cluster, self.node, self.lost = runner, cluster, node, False

    def run(self, work, numbers):
        for result in self.runner.run(work, numbers):
            yield result
            if not self.lost:
                self.cluster.remove_node(self.node, allow_graceful=False)
                self.lost = True


@pytest.mark.slow
def test_the_command_writes_to_an_address_by_processes(photographs, tmp_path, capsys):
    out = f"file://{tmp_path}/out"
    command = ["lift", str(photographs), "--out", out, "--size", "64x48", "--per-shard", "2"]
    assert main([*command, "--processes", "2"]) == 0
    assert "4 photographs in 3 new shards" in capsys.readouterr().out
    assert len(list(read_shard(tmp_path / "out" / "shard-000000.tar"))) == 2
    assert main([*command, "--picture", str(tmp_path / "x.png")]) == 2
    assert "--picture reads shards of a folder" in capsys.readouterr().err


def test_a_pool_that_breaks_while_its_result_is_stored_loses_no_piece(tmp_path):
    """Between two results nobody looks at the pool; the piece it then refuses is not forgotten."""
    broken = []

    class Pool(runners.ProcessPoolExecutor):
        def submit(self, work, number):
            if number == 3 and not broken:
                broken.append(number)
                raise runners.BrokenProcessPool("a child process terminated abruptly")
            return super().submit(work, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runners, "ProcessPoolExecutor", Pool)
        done = dict(Processes(1).run(Dying(tmp_path, 0), range(5)))
    assert done == {n: n * n for n in range(5)}
