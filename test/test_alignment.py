"""2D-3D alignment: moved scenes, the point encoder, what patches see, the loss, the joined head."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from fakes.texture import texture
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation
from test_gaussians_pairs import input_views, world_depth, write_scene
from test_gaussians_pairs import scene as scene  # the fixture: a square before a wall
from test_lite import tensor_of
from torch.nn.functional import normalize

from l2m_ros import cli
from l2m_ros.commands.train_decoder import with_head
from l2m_ros.errors import ModelError
from l2m_ros.networks.lite.aligned import HEAD, PatchHead
from l2m_ros.networks.lite.files import joined, load_head, save_head
from l2m_ros.networks.lite.network import build_lite
from l2m_ros.networks.shared.xfeat import XFeat
from l2m_ros.types import Camera
from l2m_ros.workshop.gaussians.bank import BankOptions, SceneTable, load_bank, view_bank
from l2m_ros.workshop.gaussians.cpu import CpuRasterizer
from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.moving import Moves, moved
from l2m_ros.workshop.gaussians.point_encoder import (
    ATTRIBUTES,
    PointConfig,
    PointEncoder,
    Voxels,
    attributes,
    voxels_of,
)
from l2m_ros.workshop.gaussians.rendering import render
from l2m_ros.workshop.gaussians.seen import voxels_seen
from l2m_ros.workshop.lifting.torch_scenes import Draws
from l2m_ros.workshop.training import checkpoint
from l2m_ros.workshop.training.alignment import (
    TOUCHING,
    Alignment,
    align_loss,
    info_nce,
    train_alignment,
)
from l2m_ros.workshop.training.alignment_data import (
    AlignBatches,
    Aligned,
    AlignOptions,
    SeenScenes,
)
from l2m_ros.workshop.training.data import PhotographPairs, SizeShare
from l2m_ros.workshop.training.decoder import DecoderOptions, train_decoder
from l2m_ros.workshop.training.loop import LoopOptions

THIN = PointConfig(width=32, heads=2, near=6)


def cloud(count=200, harmonics=16, seed=0):
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(count, *shape, generator=rng)

    means = draw(3) * 0.4 + torch.tensor([0.0, 0.0, 3.0])
    return Gaussians(means, draw(3) * 0.3 - 2.5, draw(4), draw(), draw(harmonics, 3) * 0.3)


@pytest.mark.parametrize("harmonics", [1, 4, 16])
def test_a_moved_scene_looks_the_same_from_a_camera_that_moved_with_it(harmonics):
    gaussians, scale, shift = cloud(harmonics=harmonics), 2.5, np.array([0.3, -1.0, 2.0])
    turn = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix()
    camera = Camera(48, 32, np.array([[40.0, 0, 23.5], [0, 40.0, 15.5], [0, 0, 1]]))
    pose = np.eye(4)
    pose[:3, :3] = turn
    pose[:3, 3] = shift  # of a camera that was at the origin
    before = render(CpuRasterizer(1), gaussians, PosedCamera(camera, np.eye(4)))
    there = moved(gaussians, turn, shift, scale)
    after = render(CpuRasterizer(1), there, PosedCamera(camera, np.linalg.inv(pose)))
    assert before.alpha.mean() > 0.2
    torch.testing.assert_close(after.colour, before.colour, atol=2e-3, rtol=0)
    torch.testing.assert_close(
        after.expected_depth, scale * before.expected_depth, atol=2e-2, rtol=0
    )


def test_the_order_of_gaussians_does_not_matter():
    torch.manual_seed(0)
    encoder = shaken(PointEncoder(THIN)).eval()
    gaussians = cloud()
    order = torch.randperm(len(gaussians))
    some, others = gaussians, gaussians.select(order)
    there, here = (voxels_of(g.means, 0.3) for g in (some, others))
    assert 20 < there.count < 200
    assert attributes(some).shape == (200, ATTRIBUTES)
    with torch.no_grad():
        a, b = encoder(attributes(some), there), encoder(attributes(others), here)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert torch.equal(there.index[order], here.index)


def shaken(module):
    """What begins at zero gets a little, so that gradients and differences show."""
    for parameter in module.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.1)
    return module


def test_a_quaternion_and_its_negative_are_one_attribute_and_voxels_are_bounded():
    gaussians = cloud()
    other = replace(gaussians, quaternions=-2.0 * gaussians.quaternions)
    torch.testing.assert_close(attributes(gaussians), attributes(other))
    assert voxels_of(gaussians.means, 1e-3, most=40).count <= 40


def test_patches_see_what_is_in_front(scene):
    """The square at z = 2 hides the wall at z = 3; nothing is seen off the scene."""
    view = input_views()["4"]
    raster = render(scene.rasterizer, scene.gaussians, view).raster
    dominant = raster.dominant[None].int()
    voxels = voxels_of(scene.gaussians.means, 0.25)
    seen = voxels_seen(dominant, voxels.index[None], 4)[0].numpy()
    assert seen.shape == (15, 20)
    depth, _ = world_depth(view)
    world_z = voxels.places.numpy()[seen.clip(0), 2]
    blocks = depth.reshape(15, 4, 20, 4).swapaxes(1, 2).reshape(15, 20, 16)
    front, back = ((np.abs(blocks + view.world_from_camera[2, 3] - z) < 0.1).all(2) for z in (2, 3))
    front, back = front & (seen >= 0), back & (seen >= 0)
    assert front.sum() > 10 and back.sum() > 100
    assert np.abs(world_z[front] - 2).max() < 0.15  # though the wall's Gaussians lie behind
    assert (np.abs(world_z[back] - 3) < 0.15).mean() > 0.97  # an edge's Gaussian reaches over
    assert raster.drawn[dominant[dominant >= 0].long()].all()
    assert (voxels_seen(torch.full((1, 8, 8), -1), voxels.index[None], 4) == -1).all()


def test_the_most_frequent_voxel_is_seen_unless_none_is_frequent():
    dominant = np.array([[0, 0, 1, 2], [0, 1, 3, 4], [5, 5, 0, 0], [5, -1, 0, 0]])
    voxel = torch.tensor([[7, 3, 1, 2, 4, 9]])
    seen = voxels_seen(torch.from_numpy(dominant)[None], voxel, 2, least=0.5)
    assert seen[0].tolist() == [[7, -1], [9, 7]]
    nothing = torch.tensor([[[-1, -1, -1, 0], [-1, -1, -1, 0]]])  # is no voxel, however frequent
    assert voxels_seen(nothing, voxel, 2, least=0.4)[0].tolist() == [[-1, 7]]


def test_the_loss_is_that_of_its_slow_twin():
    rng = torch.Generator().manual_seed(0)
    patches, voxels = (normalize(torch.randn(n, 8, generator=rng), dim=1) for n in (9, 5))
    of = torch.tensor([0, 0, 1, 2, 2, 2, 4, 4, 1])
    places = torch.tensor([[0.0, 0, 0], [1, 0, 0], [5, 0, 0], [9, 0, 0], [20, 0, 0]])
    of_sample = torch.tensor([0, 0, 0, 0, 1])  # the last is of another pair: no negative either
    apart = Voxels(torch.arange(5), places, torch.ones(5, 1), of_sample).apart
    touching = apart < TOUCHING
    assert touching.sum() == 7  # itself, and 0 with 1
    free_of = ~touching & torch.isfinite(apart)
    sharp = torch.tensor(10.0)
    rows = []
    for p, own in enumerate(of.tolist()):
        free = [t for t in range(5) if t == own or free_of[own, t]]
        e = {t: torch.exp(sharp * patches[p] @ voxels[t]) for t in free}
        rows.append(-torch.log(e[own] / sum(e.values())))
    columns = []
    for t in (0, 1, 2, 4):  # no patch shows 3
        free = [p for p in range(9) if of[p] == t or free_of[of[p], t]]
        e = {p: torch.exp(sharp * patches[p] @ voxels[t]) for p in free}
        own = [-torch.log(e[p] / sum(e.values())) for p in free if of[p] == t]
        columns.append(torch.stack(own).mean())
    want = 0.5 * (torch.stack(rows).mean() + torch.stack(columns).mean())
    torch.testing.assert_close(info_nce(patches, voxels, of, apart, sharp), want)


def planted(seed, change):
    """Patches that see a fixed function of what their voxel's Gaussians are like."""
    rng = torch.Generator().manual_seed(seed)
    gaussians = cloud(120, harmonics=1, seed=seed)
    gaussians = replace(gaussians, sh=4.0 * gaussians.sh)
    values, voxels = attributes(gaussians), voxels_of(gaussians.means, 0.35)
    of = torch.randint(voxels.count, (2 * 6 * 8,), generator=rng)
    mean = torch.zeros(voxels.count, 3).index_add(0, voxels.index, gaussians.sh[:, 0])
    mean = mean / torch.bincount(voxels.index)[:, None]
    eyes = (mean[of] @ change).view(2, 6, 8, -1).permute(0, 3, 1, 2)
    return Aligned(eyes + 0.02 * torch.randn(eyes.shape, generator=rng), values, voxels, of)


def test_a_planted_correspondence_is_learnt_and_holds_in_scenes_never_seen():
    torch.manual_seed(0)
    change = torch.randn(3, 16)
    model = Alignment(16, THIN)
    optimizer = torch.optim.Adam(model.parameters(), 6e-3)
    never = [planted(1000 + i, change) for i in range(4)]

    def found():
        return np.mean([align_loss(model, sample)[1]["found"] for sample in never])

    first = found()
    for step in range(60):
        loss, _ = align_loss(model, planted(step, change))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first < 0.3  # by chance, touching voxels among it
    assert found() > 0.5


def test_gradients_reach_everything_that_learns():
    torch.manual_seed(0)
    model = shaken(Alignment(16, THIN))
    loss, terms = align_loss(model, planted(0, torch.randn(3, 16)))
    loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert silent == [] and np.isfinite(loss.item())
    blind = replace(planted(0, torch.randn(3, 16)), seen=torch.full((96,), -1))
    loss, terms = align_loss(model, blind)
    assert loss.item() == 0.0 and terms["found"] == 0.0  # a view of nothing teaches nothing


def eyes(images):
    """Fixed colours of patches: enough for a run."""
    return torch.nn.functional.avg_pool2d(images, 16).repeat(1, 4, 1, 1)


@pytest.fixture(scope="module")
def bank(scene):
    return view_bank([scene], BankOptions(views=8, width=96, height=64, seed=1))


def test_a_bank_is_stored_whole(bank, tmp_path):
    bank.save(tmp_path / "bank.npz")
    again = load_bank(tmp_path / "bank.npz")
    for name, value in bank.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name


def test_pairs_joined_into_a_batch_are_those_pairs(bank, scene):
    """A batch of two is the two: the same patches and vectors of voxels."""
    table = SceneTable.of([scene.gaussians.select(torch.arange(100)), scene.gaussians])
    apart = replace(bank, scene=torch.ones_like(bank.scene))  # its scene is the table's second
    scenes = SeenScenes(apart, table, eyes)
    a, b, images = scenes.drawn(Draws(torch.device("cpu"), 3), 2, 0.9)
    both = scenes.sample(a, b, images, np.random.default_rng(5))
    torch.manual_seed(0)
    model = shaken(Alignment(12, THIN)).eval()
    rotation = Rotation.random
    turns = rotation(2, random_state=0)
    for k in range(2):
        part = a[k : k + 1], b[k : k + 1], images[k::2]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SeenScenes, "_moves", moves_of(turns[[k]]))
            one = scenes.sample(*part, np.random.default_rng(0))
            patch.setattr(SeenScenes, "_moves", moves_of(turns))
            two = scenes.sample(a, b, images, np.random.default_rng(0))
        seen = two.seen.view(2, 2, -1)[:, k].flatten()
        with torch.no_grad():
            (patches, voxels), (all_patches, all_voxels) = model(one), model(two)
        assert torch.equal(seen >= 0, one.seen >= 0) and (seen >= 0).float().mean() > 0.8
        known = seen >= 0
        torch.testing.assert_close(
            all_voxels[seen[known]], voxels[one.seen[known]], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(all_patches.view(2, 2, -1, 128)[:, k].flatten(0, 1), patches)
    assert torch.isinf(both.voxels.apart).any() and both.voxels.sample.unique().tolist() == [0, 1]


def moves_of(turns):
    def moves(self, rng, a, means, of):
        count = len(a)
        return Moves.of(turns.as_matrix(), np.zeros((count, 3)), np.full(count, 0.3), 0).to(means)

    return moves


def test_batches_are_drawn_from_the_step_and_an_interrupted_run_is_the_same_run(
    bank, scene, tmp_path
):
    options = AlignOptions(
        width=96, height=64, held_out=2, points=THIN,
        loop=LoopOptions(steps=4, bf16=False, warmup_steps=1, ema=0.5, validate_s=1e9),
    )  # fmt: skip
    scenes = SeenScenes(bank, SceneTable.of([scene.gaussians]), eyes)
    sample, other = (
        AlignBatches(scenes, options).batch(3, rank=0, count=1, difficulty=0.5) for _ in "ab"
    )
    assert torch.equal(sample.values, other.values) and torch.equal(sample.seen, other.seen)
    assert (sample.seen >= 0).float().mean() > 0.8

    def model():
        torch.manual_seed(1)
        return Alignment(12, THIN)

    held_out = scenes
    train_alignment(options, model(), scenes, held_out, tmp_path / "whole")
    batches = AlignBatches.batch

    def broken(self, step, **how):
        if step == 2:
            raise KeyboardInterrupt
        return batches(self, step, **how)

    often = replace(options, loop=replace(options.loop, checkpoint_s=0.0))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AlignBatches, "batch", broken)
        train_alignment(often, model(), scenes, held_out, tmp_path / "parts")
    assert checkpoint.load(tmp_path / "parts")["step"] == 2
    train_alignment(often, model(), scenes, held_out, tmp_path / "parts")
    whole, parts = (checkpoint.load(tmp_path / name) for name in ("whole", "parts"))
    for kind in ("model", "ema"):
        for name, value in whole[kind].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(parts[kind][name])), name
    text = (tmp_path / "whole" / "validation.csv").read_text()
    assert "aligned_within1" in text and "eyes_within1" in text


# --- the head in the matcher --------------------------------------------------------------------


def matched(network, seed=0):
    a, b = (tensor_of(texture(96, 64, seed + i)) for i in range(2))
    with torch.no_grad():
        return network.match(network.encode(a), network.reference(network.encode(b)))


def test_without_a_head_the_matcher_is_what_it_was_and_a_share_of_nothing_changes_nothing():
    """The rest of a matcher with a head begins with the same numbers as one without."""
    networks = {}
    for aligned in (0, 128):
        torch.manual_seed(3)
        networks[aligned] = build_lite(aligned=aligned).eval()
    plain, head = networks[0], networks[128]
    own = plain.state_dict()
    assert not any(name.startswith(("describe.align", "describe.share")) for name in own)
    assert all(torch.equal(value, head.state_dict()[name]) for name, value in own.items())
    with torch.no_grad():
        head.describe.share.fill_(-60.0)
    want, found = matched(plain), matched(head)
    for name in want:
        torch.testing.assert_close(found[name], want[name], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        head.describe.share.fill_(0.0)
    assert not torch.allclose(matched(head)["warp"], want["warp"], atol=1e-2)


def test_joined_descriptors_compare_by_the_mean_of_both_cosines():
    torch.manual_seed(0)
    network = shaken(build_lite(aligned=128, aligned_share=0.25)).eval()
    image = torch.cat([tensor_of(texture(64, 64, seed)) for seed in range(2)])
    with torch.no_grad():
        features = network.encode(image)
        base, theirs = features["base"].split([64, 128], dim=1)
        cells = network._merged(features["coarse"], features["context"])
        both = network.describe(features["base"], cells)
        own = normalize((base + network.describe.learnt(cells)), dim=1)
        torch.testing.assert_close(theirs, network.describe.align(features["eyes"]))
    want = 0.75 * (own[0] * own[1]).sum(0) + 0.25 * (theirs[0] * theirs[1]).sum(0)
    torch.testing.assert_close((both[0] * both[1]).sum(0), want, atol=1e-3, rtol=0)


def test_a_head_begins_with_what_the_eyes_see():
    """Cosines of its vectors are those of the eyes, whose halves count alike."""
    torch.manual_seed(0)
    seen = torch.rand(1, 128, 4, 6)
    halves = [normalize(part, dim=1) for part in seen.split(64, dim=1)]
    want = normalize(torch.cat(halves, dim=1), dim=1).flatten(2)[0]
    with torch.no_grad():
        found = PatchHead()(seen).flatten(2)[0]
    torch.testing.assert_close(found.T @ found, want.T @ want, atol=1e-3, rtol=0)


def test_a_head_of_other_eyes_is_refused(tmp_path):
    torch.manual_seed(0)
    network, other = build_lite(), build_lite()
    head = PatchHead()
    save_head(tmp_path / "head.safetensors", head, network.eyes, {"scenes": "a"})
    whole = joined(build_lite(aligned=128), network, head)
    assert torch.equal(whole.describe.align.patch.weight, head.patch.weight)
    load_head(tmp_path / "head.safetensors", PatchHead(), network.eyes)
    with pytest.raises(ModelError, match="l2m train align"):
        load_head(tmp_path / "head.safetensors", PatchHead(), other.eyes)


def test_training_leaves_the_head_as_it_came(tmp_path):
    torch.manual_seed(0)
    network = build_lite(aligned=128, self_blocks=1, cross_blocks=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    options = with_head(
        DecoderOptions(
            model="lite", sizes=(SizeShare(64, 64, 1, 1.0),), validation=(),
            loop=LoopOptions(steps=1, bf16=False, rates={"encoder.xfeat": 0.0}, validate_s=1e9),
        )
    )  # fmt: skip
    assert options.network == {"aligned": 128}
    pairs = PhotographPairs([texture(96, 96, 1)], 0)
    train_decoder(options, network, pairs, pairs, tmp_path)
    after = checkpoint.load(tmp_path)["model"]
    still = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert {n for n in before if n.startswith(f"{HEAD}.")} <= still
    assert "describe.learnt.bias" not in still and "describe.share" not in still


def test_the_command_refuses_what_it_cannot_learn_from(tmp_path, capsys):
    for arguments, words in [
        ([], "l2m splat build"),
        (["--pairs", str(tmp_path)], "l2m splat build"),
        (["--pairs", "SCENE", "--model", "tinyroma"], "the frozen eyes of lite"),
        (["--pairs", "SCENE", "--measure", str(tmp_path)], "name a file"),
    ]:
        (tmp_path / "SCENE.ply").touch()
        given = [str(tmp_path / "SCENE.ply") if a == "SCENE" else a for a in arguments]
        assert cli.main(["train", "align", *given, "--steps", "1"]) == 2
        assert words in capsys.readouterr().err
    head = tmp_path / "h.safetensors"
    head.write_bytes(b"anything")
    command = ["train", "decoder", "--model", "l2m", "--align", str(head), "--steps", "1"]
    assert cli.main(command) == 2
    assert "--model lite" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_leaves_a_head_and_a_matcher_that_has_it(tmp_path, scene, capsys):
    """From a scene to a model that every command takes by its folder, and to a training."""
    from l2m_ros.matching.catalogue import load_matcher

    path = write_scene(tmp_path / "scene.ply", scene)
    config = tmp_path / "align.yaml"
    config.write_text(
        "{width: 96, height: 64, held_out: 1, views: 6, points: {width: 32}, loop: {bf16: false}}"
    )
    out = tmp_path / "run"
    command = ["train", "align", "--pairs", str(path), "--config", str(config), "--out", str(out)]
    assert cli.main([*command, "--measure", str(path), "--steps", "2"]) == 0
    image = texture(320, 240)
    for backend in ("torch", "onnxruntime"):
        matcher = load_matcher(str(out / "model"), backend=backend)
        match = matcher.match(matcher.encode(image), matcher.reference(matcher.encode(image)))
        assert match.warp_px.shape == (120, 160, 2)
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for index in range(2):
        cv2.imwrite(str(photographs / f"{index}.png"), texture(160, 120, index))
    small = tmp_path / "lite.yaml"
    small.write_text(
        "{model: lite, sizes: [{width: 64, height: 64, batch: 1, share: 1}], validation: [], "
        "loop: {steps: 1, bf16: false, rates: {encoder.xfeat: 0}}}"
    )
    command = ["train", "decoder", "--photographs", str(photographs)]
    command += ["--config", str(small), "--align", str(out / "head.safetensors")]
    command += ["--out", str(tmp_path / "more")]
    others = {f"net.{name}": value for name, value in XFeat().state_dict().items()}
    torch.save(others, tmp_path / "xfeat.pt")
    assert cli.main([*command, "--xfeat", str(tmp_path / "xfeat.pt")]) == 2
    assert "reads eyes" in capsys.readouterr().err  # the head reads those of lite
    assert cli.main(command) == 0
    head, more = (
        load_file(file)
        for file in (out / "head.safetensors", tmp_path / "more/model/lite.safetensors")
    )
    assert all(torch.equal(value, more[f"{HEAD}.{name}"]) for name, value in head.items())
