"""What users of other packages are given: policies, presets, containers, the install script."""

import http.server
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from l2m_ros.frames.inputs import TOPICS
from l2m_ros.frames.outputs import OUTPUTS
from l2m_ros.parameters.table import PARAMETERS

ROOT = Path(__file__).parent.parent
MAP_TOPICS = {"map_pose", "path", "map_points", "map_keyframes"}
INSTRUCTIONS = {"FROM", "SHELL", "RUN", "WORKDIR", "COPY", "USER", "ENV", "CMD"}


# What policy.xsd of sros2 allows: of an element its attributes (! = needed) and children.
RULE = {"ALLOW", "DENY"}
SCHEMA = {
    "policy": ({"version!"}, {"enclaves"}),
    "enclaves": (set(), {"enclave"}),
    "enclave": ({"path!"}, {"profiles"}),
    "profiles": ({"type"}, {"profile", "metadata"}),
    "profile": ({"ns!", "node!"}, {"topics", "services", "actions"}),
    "topics": ({"publish", "subscribe"}, {"topic"}),
    "services": ({"reply", "request"}, {"service"}),
    "actions": ({"call", "execute"}, {"action"}),
    "topic": (set(), set()),
    "service": (set(), set()),
    "action": (set(), set()),
}


def test_the_sros2_policy_keeps_the_rules_of_its_schema():
    policy = ET.parse(ROOT / "config" / "sros2" / "l2m.policy.xml").getroot()
    for element in policy.iter():
        attributes, children = SCHEMA[element.tag]
        assert set(element.keys()) <= {name.strip("!") for name in attributes}, element.tag
        assert {name[:-1] for name in attributes if name.endswith("!")} <= set(element.keys())
        assert {child.tag for child in element} <= children, element.tag
        if children:
            assert len(element), f"{element.tag} is empty"
        else:  # a name, relative, private or absolute, of ROS
            assert re.fullmatch(r"(~/|/)?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", element.text), element.text
    rules = [value for e in policy.iter() if e.tag in ("topics", "services", "actions")
             for value in e.attrib.values()]  # fmt: skip
    assert rules and set(rules) <= RULE
    for rule in policy.iter():
        names = [one.text for one in rule if one.tag in ("topic", "service")]
        assert len(names) == len(set(names)), "a name stands twice under one rule"


def test_the_sros2_policy_allows_what_the_node_has_and_no_more():
    policy = ET.parse(ROOT / "config" / "sros2" / "l2m.policy.xml").getroot()
    assert policy.tag == "policy" and policy.get("version") == "0.2.0"
    (profile,) = policy.iterfind("enclaves/enclave/profiles/profile")
    assert (profile.get("ns"), profile.get("node")) == ("/", "l2m")
    heard, sent = profile.findall("topics")
    assert set(TOPICS) <= {topic.text for topic in heard}
    published = {topic.text for topic in sent}
    assert {f"~/{name}" for name in OUTPUTS} <= published
    private = {name.removeprefix("~/") for name in published if name.startswith("~/")}
    assert private - set(OUTPUTS) == {"transition_event", *MAP_TOPICS}
    services = {service.text for service in profile.iterfind("services/service")}
    own = {f"~/{name}" for name in ("set_keyframe", "reset", "save_map", "load_map", "relocalize")}
    assert own <= services and "~/change_state" in services
    node = (ROOT / "l2m_ros" / "node" / "node.py").read_text()
    assert set(re.findall(r'create_service\(\w+, "(~/\w+)"', node)) <= own
    mapping = (ROOT / "l2m_ros" / "node" / "map_thread.py").read_text()
    assert all(f'"{name}": ("' in mapping for name in MAP_TOPICS)


def test_presets_for_others_name_what_exists():
    nav2 = yaml.safe_load((ROOT / "config" / "nav2.yaml").read_text())
    assert set(nav2.pop("l2m")["ros__parameters"]) <= set(PARAMETERS)
    topics = {block["ros__parameters"]["odom_topic"] for block in nav2.values()}
    assert topics == {"/l2m/odometry"} and "odometry" in OUTPUTS
    ekf = yaml.safe_load((ROOT / "config" / "robot_localization.yaml").read_text())
    ekf = ekf["ekf_filter_node"]["ros__parameters"]
    assert ekf["odom1"] == "/l2m/odometry" and len(ekf["odom1_config"]) == 15
    assert not any(ekf["odom1_config"][:6])  # velocities only
    assert ekf["odom_frame"] == PARAMETERS["frames.odom"].default
    assert ekf["base_link_frame"] == PARAMETERS["frames.base"].default


def test_the_install_script_is_sound_and_brings_what_setup_asks_for(tmp_path):
    script = ROOT / "docker" / "workspace.sh"
    subprocess.run(["sh", "-n", str(script)], check=True)
    for package in ("poselib", "onnxruntime"):
        (asked,) = set(re.findall(rf'"{package}(>=[\d.]+)"', (ROOT / "setup.py").read_text()))
        assert f'"{package}{asked}"' in script.read_text()
    # With an environment that is there already it only activates it.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to("/bin/true")
    (tmp_path / "bin" / "activate").write_text("echo activated\n")
    done = subprocess.run(
        ["sh", "-c", f". {script}"], env={"L2M_VENV": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "activated\n"


@pytest.mark.parametrize(
    ("linter", "pattern"), [("hadolint", "*.Dockerfile"), ("shellcheck", "*.sh")]
)
def test_linters_of_containers_and_scripts(linter, pattern):
    command = shutil.which(linter, path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    if command is None:
        pytest.skip(f"{linter} is not installed: pip install 'l2m_ros[test]'")
    files = sorted(map(str, (ROOT / "docker").glob(pattern)))
    done = subprocess.run([command, *files], capture_output=True, text=True, check=False)
    assert files and done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_bare_debian_is_set_up_built_and_starts_the_node(tmp_path):
    """About 5 minutes and 400 MB from Debian's and Python's archives."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    root = Path(os.environ.get("L2M_DEBIAN_ROOT", tmp_path / "root"))  # kept, to be quick again
    script = ["sh", str(ROOT / "docker" / "debian_root.sh"), str(root)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "PEP 668: refused, as expected" in done.stdout
    assert "the node was active and ended with 0" in done.stdout


@pytest.mark.parametrize("name", ["jazzy", "jetson"])
def test_dockerfiles(name):
    """The rules of hadolint that matter: lists removed, no sudo, not root at the end."""
    text = (ROOT / "docker" / f"{name}.Dockerfile").read_text()
    joined = re.sub(r"\\\n", " ", text)
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    assert {line.split()[0] for line in lines} <= INSTRUCTIONS
    assert lines[0].startswith("FROM ") and ":" in lines[0]
    assert sum("rm -rf /var/lib/apt/lists" in line for line in lines) == 1
    assert "--no-install-recommends" in text and "sudo" not in text
    assert [line for line in lines if line.startswith("USER")] == ["USER 1001"]
    assert lines[-1].startswith("CMD [")


def test_the_lock_file_pins_every_package_of_the_tests():
    lines = (ROOT / "test" / "requirements.lock").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if "==" in line}
    assert {"numpy", "torch", "poselib", "hypothesis", "pytest", "rosbags"} <= pinned
    assert not any("://" in line or "+" in line for line in lines)


CONFIG = ROOT / "config"
VIEWS = sorted([*(CONFIG / "rviz").glob("*"), *(CONFIG / "foxglove").glob("*")])


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_views_show_what_the_node_publishes(view):
    text = view.read_text()
    shown = set(re.findall(r"/l2m/(\w+)", text))
    assert shown <= {*OUTPUTS, *MAP_TOPICS}
    if view.stem == "map":
        assert shown >= MAP_TOPICS and "initialpose" in text
    if view.suffix == ".rviz":
        displays = yaml.safe_load(text)["Visualization Manager"]["Displays"]
        topics = [d["Topic"] for d in displays if "Topic" in d]
        late = {t["Value"] for t in topics if t["Durability Policy"] == "Transient Local"}
        latched = {f"/l2m/{name}" for name in ("path", "map_points", "map_keyframes", "keyframe")}
        assert late == latched & {t["Value"] for t in topics}
    else:
        json.loads(text)


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "1 of 1 packages checked"),
        (
            [{"name": "a", "skip_reason": "not found"}, {"name": "b", "version": "1", "vulns": []}],
            2,
            "the service told nothing of a",
        ),
        ([{"name": "a", "skip_reason": "not found"}], 3, "NOTHING was checked"),
        ([], 3, "NOTHING was checked"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}], 1, "a 1: CVE-1"),
    ],
)
def test_an_audit_that_checked_nothing_is_no_clean_audit(packages, code, words):
    verdict = runpy.run_path(str(ROOT / ".ci" / "audit.py"))["verdict"]
    got, said = verdict(packages)
    assert got == code and words in said


class _Osv(http.server.BaseHTTPRequestHandler):
    """Knows one fault, of jinja2; speaks as api.osv.dev does."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        of_it = {"package": asked["package"], "versions": [asked["version"]]}
        dates = dict.fromkeys(("modified", "published"), "2026-01-01T00:00:00Z")
        fault = {"id": "GHSA-0000-0000-0001", "affected": [of_it], **dates}
        found = [fault] if asked["package"]["name"] == "jinja2" else []
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"vulns": found}).encode())

    def log_message(self, *_):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lock", "code", "words"),
    [("jinja2==2.10\nnumpy==1.26.4\n", 1, "jinja2 2.10: GHSA"), ("numpy==1.26.4\n", 0, "1 of 1")],
)
def test_an_audit_by_a_service_of_this_machine(lock, code, words, tmp_path):
    """The real pip-audit, where it is installed (`make audit` makes an environment of it)."""
    pip_audit = ROOT / "build" / "audit" / "bin" / "pip-audit"
    found = pip_audit if pip_audit.exists() else shutil.which("pip-audit")
    if found is None:
        pytest.skip("pip-audit is not installed")
    (tmp_path / "lock.txt").write_text(lock)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Osv)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    known_faults = runpy.run_path(str(ROOT / ".ci" / "audit.py"))["known_faults"]
    url = f"http://127.0.0.1:{server.server_port}/v1/query"
    got, said = known_faults(tmp_path / "lock.txt", url, Path(found))
    assert got == code and words in said
    server.shutdown()
    server.server_close()
    got, said = known_faults(tmp_path / "lock.txt", url, Path(found))
    assert got == 3 and "NOTHING was checked" in said


def test_ci_tests_with_the_pinned_packages():
    assert "export LOCK=test/requirements.lock" in (ROOT / ".ci" / "run").read_text()
    assert "$(if $(LOCK),-c $(LOCK))" in (ROOT / "Makefile").read_text()
