"""The launch files, executed with stand-ins of launch's classes that refuse keywords which those do
not have. `test_launch_real.py` runs them by launch itself, where that is installed."""

import importlib.util
import runpy
import sys
import types
from pathlib import Path

import pytest
import yaml

from l2m_ros.node.fastdds import PROFILE_VARIABLES

pytest.importorskip("lifecycle_msgs")

ROOT = Path(__file__).parent.parent
REAL = importlib.util.find_spec("launch_ros") is not None
# The keywords of each action and event that the launch files may use, from Humble on.
NODE = {
    "package", "executable", "name", "namespace", "parameters", "remappings", "arguments",
    "respawn", "respawn_delay", "output", "emulate_tty",
}  # fmt: skip
KEYWORDS = {
    "launch": {"LaunchDescription": set()},
    "launch.actions": {
        "DeclareLaunchArgument": {"default_value", "description", "choices"},
        "EmitEvent": {"event"},
        "ExecuteProcess": {"cmd", "name", "output"},
        "IncludeLaunchDescription": {"launch_arguments"},
        "LogInfo": {"msg"},
        "OpaqueFunction": {"function"},
        "RegisterEventHandler": set(),
        "SetEnvironmentVariable": set(),
        "TimerAction": {"period", "actions"},
    },
    "launch.event_handlers": {"OnProcessExit": {"target_action", "on_exit"}},
    "launch.events": {"Shutdown": {"reason"}},
    "launch.launch_description_sources": {"PythonLaunchDescriptionSource": set()},
    "launch.substitutions": {"LaunchConfiguration": set()},
    "launch_ros.actions": {"LifecycleNode": NODE, "Node": NODE},
}


def stand_in(kind: str, allowed: set[str]):
    """A class that keeps what it is given, and refuses unknown keywords."""

    def __init__(self, *args, **keywords):
        assert set(keywords) <= allowed, f"{kind} has no {set(keywords) - allowed}"
        self.args, self.keywords = args, keywords
        self.name = args[0] if kind == "DeclareLaunchArgument" else keywords.get("name")

    def perform(self, context):
        return context[self.args[0]]

    return type(kind, (), {"__init__": __init__, "perform": perform})


@pytest.fixture
def modules(monkeypatch):
    for name, classes in KEYWORDS.items():
        for parent in (name.rsplit(".", 1)[0], name):
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        for kind, allowed in classes.items():
            monkeypatch.setattr(sys.modules[name], kind, stand_in(kind, allowed), raising=False)


def arguments_of(include) -> list:
    """Those of the file that an action includes: the user may give them too."""
    (source,) = include.args
    return Launched(Path(source.args[0]).name).declared


class Launched:
    """A launch file, its arguments filled in, its functions called."""

    def __init__(self, name: str, **given: str):
        entities = runpy.run_path(str(ROOT / "launch" / name))["generate_launch_description"]()
        (listed,) = entities.args
        self.arguments = [e for e in listed if type(e).__name__ == "DeclareLaunchArgument"]
        self.included = [e for e in listed if type(e).__name__ == "IncludeLaunchDescription"]
        inherited = [argument for e in self.included for argument in arguments_of(e)]
        self.declared = [*self.arguments, *inherited]
        context = {a.name: a.keywords.get("default_value") for a in self.declared} | given
        assert set(given) <= set(context), f"no arguments {set(given) - set(context)}"
        self.actions = []
        for entity in listed:
            if type(entity).__name__ == "OpaqueFunction":
                self.actions += entity.keywords["function"](context)

    def of(self, kind: str) -> list:
        return [action for action in self.actions if type(action).__name__ == kind]

    @property
    def node(self):
        (node,) = self.of("LifecycleNode")
        return node.keywords

    def handlers(self) -> list:
        return [action.args[0] for action in self.of("RegisterEventHandler")]


pytestmark = pytest.mark.skipif(
    REAL, reason="launch is installed: test_launch_real.py runs the files"
)
FILES = sorted(path.name for path in (ROOT / "launch").glob("*.launch.py"))


@pytest.mark.parametrize("name", FILES)
def test_every_argument_is_described(modules, name):
    for argument in Launched(name).arguments:
        words = argument.keywords["description"]
        assert len(words) > 8 and not words.endswith("."), argument.name
        choices, default = (argument.keywords.get(k) for k in ("choices", "default_value"))
        assert choices is None or default is None or default in choices


def test_the_launch_argument_knows_every_backend(modules):
    from l2m_ros.commands.options import BACKENDS

    (backend,) = (a for a in Launched("matcher.launch.py").arguments if a.name == "backend")
    assert set(backend.keywords["choices"]) == {"", *BACKENDS}


def test_the_node_takes_the_file_and_what_the_arguments_say(modules):
    node = Launched("matcher.launch.py").node
    assert (node["package"], node["executable"], node["name"]) == ("l2m_ros", "matcher", "l2m")
    file, overrides = node["parameters"]
    assert yaml.safe_load(Path(file).read_text())
    assert overrides == {"use_sim_time": False, "autostart": True}
    node = Launched("matcher.launch.py", model="orb", use_sim_time="true", queue="all").node
    assert node["parameters"][1] == {
        "model": "orb", "queue": "all", "use_sim_time": True, "autostart": True,
    }  # fmt: skip


def test_overrides_are_parameters_of_the_node(modules):
    from l2m_ros.parameters.table import PARAMETERS, validation_error

    given = {"model": "orb", "backend": "torch", "queue": "all", "image_transport": "compressed"}
    overrides = Launched("matcher.launch.py", **given).node["parameters"][1]
    overrides.pop("use_sim_time")
    assert set(overrides) <= set(PARAMETERS) and validation_error(overrides) is None


def test_camera_info_lies_beside_its_image(modules):
    given = {"image": "/cam/image_raw", "right": "/cam/right/image_rect", "depth": "/d"}
    remapped = dict(Launched("matcher.launch.py", **given).node["remappings"])
    assert remapped == {
        "image": "/cam/image_raw",
        "camera_info": "/cam/camera_info",
        "depth": "/d",
        "right/image": "/cam/right/image_rect",
        "right/camera_info": "/cam/right/camera_info",
        "odom": "odom",
    }
    default = dict(Launched("matcher.launch.py").node["remappings"])
    assert all(source == target for source, target in default.items())


def test_every_remapping_is_an_input(modules):
    from l2m_ros.frames.inputs import TOPICS

    assert {source for source, _ in Launched("matcher.launch.py").node["remappings"]} == set(TOPICS)


def test_the_node_starts_itself_at_each_start(modules):
    """launch's own requests waited for ever after a kill -9: a respawned node stayed
    unconfigured, and a cleanup by hand was undone."""
    assert Launched("matcher.launch.py").node["parameters"][1]["autostart"] is True
    assert Launched("matcher.launch.py").handlers() == []
    assert (
        Launched("matcher.launch.py", autostart="false").node["parameters"][1]["autostart"] is False
    )


def test_the_end_of_the_node_ends_the_launch_once(modules):
    (ended,) = Launched("matcher.launch.py", on_exit="shutdown").handlers()
    (end,) = ended.keywords["on_exit"]
    for over, events in ((False, 1), (True, 0)):
        context = types.SimpleNamespace(is_shutdown=over)
        assert len(end.keywords["function"](context)) == events


def test_params_files_are_found_by_name_or_refused(modules):
    file = Launched("matcher.launch.py", params_file="laptop_cpu.yaml").node["parameters"][0]
    assert Path(file) == ROOT / "config" / "laptop_cpu.yaml"
    with pytest.raises(RuntimeError, match=r"no laptop\.yaml.*laptop_cpu\.yaml"):
        Launched("matcher.launch.py", params_file="laptop.yaml")


def test_rviz_that_is_not_installed_is_said_and_ends_nothing(modules, monkeypatch, tmp_path):
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    launched = Launched("matcher.launch.py", rviz="true")
    assert not launched.of("Node")
    assert "rviz2" in launched.of("LogInfo")[0].keywords["msg"]


def test_respawn_exit_and_rviz(modules, monkeypatch):
    packages = "ament_index_python.packages"
    monkeypatch.setattr(f"{packages}.get_package_prefix", lambda name: "/opt/ros")
    launched = Launched("matcher.launch.py", respawn="true", on_exit="shutdown", rviz="true")
    assert launched.node["respawn"] is True
    assert type(launched.handlers()[-1]).__name__ == "OnProcessExit"
    (rviz,) = launched.of("Node")
    assert Path(rviz.keywords["arguments"][1]).is_file()


def test_large_images_respects_the_users_own_profile(modules, monkeypatch):
    for name in PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    variables = Launched("matcher.launch.py").of("SetEnvironmentVariable")
    assert len(variables) == 2 and all(Path(v.args[1]).is_file() for v in variables)
    assert not Launched("matcher.launch.py", large_images="false").of("SetEnvironmentVariable")
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "/mine.xml")
    assert not Launched("matcher.launch.py").of("SetEnvironmentVariable")


def test_replay_plays_records_and_ends(modules):
    launched = Launched("replay.launch.py", bag="my_bag", image="/cam/image", rate="0.5")
    (include,) = launched.included
    fixed = dict(include.keywords["launch_arguments"])
    assert set(fixed) <= {argument.name for argument in arguments_of(include)}
    assert (fixed["queue"], fixed["use_sim_time"]) == ("all", "true")
    recorder, player = launched.of("ExecuteProcess")
    assert "/l2m/pose" in recorder.keywords["cmd"] and "poses" in recorder.keywords["cmd"]
    assert player.keywords["cmd"][:4] == ["ros2", "bag", "play", "my_bag"]
    assert "--start-paused" in player.keywords["cmd"]
    (listening,) = launched.of("Node")
    assert listening.keywords["executable"] == "wait_until_listening"
    assert listening.keywords["arguments"][1:4] == ["/l2m", "/cam/image", "/cam/camera_info"]
    when_listening, when_played = launched.handlers()
    assert when_listening.keywords["target_action"] is listening
    (resume,) = when_listening.keywords["on_exit"]
    assert "/rosbag2_player/resume" in resume.keywords["cmd"]
    assert when_played.keywords["target_action"] is player


@pytest.mark.parametrize("namespace", ["robot1", "/robot1", "robot1/"])
def test_replay_waits_for_the_matcher_in_its_namespace(modules, namespace):
    """A full name begins with a slash: `robot1/l2m` was waited for in vain."""
    launched = Launched("replay.launch.py", bag="my_bag", namespace=namespace)
    (listening,) = launched.of("Node")
    assert listening.keywords["arguments"][:2] == ["--node", "/robot1/l2m"]
    assert listening.keywords["namespace"] == namespace
    assert "/robot1/l2m/pose" in launched.of("ExecuteProcess")[0].keywords["cmd"]


@pytest.mark.parametrize(
    ("name", "mode"), [("localization.launch.py", "localize"), ("mapping.launch.py", "build")]
)
def test_map_launch_files_start_the_matcher_with_a_map(modules, monkeypatch, name, mode):
    (with_map,) = Launched(name, map="office.l2m").included
    fixed = dict(with_map.keywords["launch_arguments"])
    assert Path(with_map.args[0].args[0]).name == "map.launch.py" and fixed == {"map_mode": mode}
    (matcher,) = Launched("map.launch.py").included
    assert Path(matcher.args[0].args[0]).name == "matcher.launch.py"
    given = {"map": "office.l2m", "map_mode": mode, "publish_map_tf": "true"}
    assert set(dict(matcher.keywords["launch_arguments"])) == set(given)
    monkeypatch.setattr("ament_index_python.packages.get_package_prefix", lambda name: "/opt/ros")
    launched = Launched("matcher.launch.py", rviz="true", **given)
    parameters = launched.node["parameters"][-1]
    assert parameters["map.path"] == "office.l2m" and parameters["map.mode"] == mode
    assert parameters["map.publish_tf"] is True
    (rviz,) = launched.of("Node")
    assert Path(rviz.keywords["arguments"][1]).name == "map.rviz"


def test_no_map_leaves_the_parameters_file_alone(modules):
    overrides = Launched("matcher.launch.py").node["parameters"][-1]
    assert not any(name.startswith("map.") for name in overrides)
