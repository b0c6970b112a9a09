"""MicKey's parts against loops, known motions and its own parity run."""

import json

import numpy as np
import pytest
import torch

from l2m_ros.errors import InvalidInput
from l2m_ros.networks import registry
from l2m_ros.networks.mickey import matching, rigid
from l2m_ros.networks.mickey.network import TINY, build_mickey
from l2m_ros.networks.mickey.solver import Draws, SolverOptions, Views, draw, solve
from l2m_ros.networks.shared.named_weights import fill
from l2m_ros.workshop.parity import mickey as parity_mickey
from l2m_ros.workshop.parity.run import run_parity

SIZE = (140, 112)  # height, width: 10 x 8 cells
K = torch.tensor([[[150.0, 0.0, 80.0], [0.0, 152.0, 60.0], [0.0, 0.0, 1.0]]])


@pytest.fixture(scope="module")
def network():
    return fill(build_mickey(**TINY), "a test's draw: ")


@pytest.fixture(scope="module")
def features(network):
    image = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return network.encode(image)


def test_one_keypoint_in_each_cell(features):
    x, y = features["keypoints"][0].reshape(2, 10, 8)
    assert ((x // 14) == torch.arange(8)).all()
    assert ((y // 14) == torch.arange(10)[:, None]).all()


def test_scores_sum_to_one_within_the_border(features):
    score = features["score"].reshape(2, 10, 8)
    assert torch.allclose(score.sum(dim=(1, 2)), torch.ones(2), atol=1e-5)
    score = score.clone()
    score[:, 3:-3, 3:-3] = 0
    assert not score.any()


def test_descriptors_have_length_one(features):
    assert torch.allclose(features["descriptors"].norm(dim=1), torch.ones(2, 80), atol=1e-5)


def test_linear_attention_by_loops(network):
    layer = network.extractor.det_head.att_layer.layers[0]
    tokens = torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(3))

    def phi(z):
        return torch.where(z > 0, z + 1, torch.exp(z))

    q, k, v = (p(tokens)[0].reshape(7, 2, 8) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
    out = torch.zeros(7, 2, 8)
    for head in range(2):
        for i in range(7):
            weight = torch.stack([phi(q[i, head]) @ phi(k[s, head]) for s in range(7)])
            out[i, head] = (weight[:, None] * v[:, head]).sum(0) / (weight.sum() + 1e-6)
    message = layer.norm1(layer.merge(out.reshape(1, 7, 16)))
    wanted = tokens + layer.norm2(layer.mlp(torch.cat([tokens, message], dim=-1)))
    assert torch.allclose(layer(tokens), wanted, atol=1e-5)


def test_match_names_the_best_pair_both_ways(network, features):
    a, b = ({k: v[i : i + 1] for k, v in features.items()} for i in (0, 1))
    out = network.match(a, network.reference(b))
    final = network.final_scores(a, b)[0]
    inner = a["score"][0, 0] > 0
    assert (out["partner"][0][inner] == final.argmax(dim=1)[inner]).all()
    likely = network.scores(a, b)[0][torch.arange(80), out["partner"][0].long()]
    assert torch.allclose(out["probability"][0], likely)
    pairs = matching.mutual_maxima(final)
    good = final[pairs[:, 0], pairs[:, 1]] > 0
    assert (out["back"][0][pairs[good, 1]] == pairs[good, 0]).all()


def test_images_of_two_sizes_match(network):
    a = network.encode(torch.rand(1, 3, 140, 112))
    b = network.encode(torch.rand(1, 3, 112, 126))
    assert network.final_scores(a, b).shape == (1, 80, 72)
    assert network.match(a, b)["back"].shape == (1, 72)


@pytest.mark.parametrize(("size", "words"), [((8, 40), "one cell"), ((84, 140), "all border")])
def test_images_that_are_too_small_are_refused(network, size, words):
    with pytest.raises(InvalidInput, match=words):
        network.encode(torch.zeros(1, 3, *size))


# --- the solver -------------------------------------------------------------------------------


def motion(seed=0):
    """A rotation about a skew axis and a translation."""
    rng = np.random.default_rng(seed)
    R = torch.linalg.matrix_exp(
        torch.tensor([[0, -0.2, 0.1], [0.2, 0, -0.3], [-0.1, 0.3, 0]], dtype=torch.float32)
    )
    return R, torch.from_numpy(rng.normal(0, 0.3, 3).astype(np.float32))


def seen_points(count=80, wrong=0.3, seed=0):
    """Views of one cloud under a known motion, a share of the second image's depths wrong."""
    rng = np.random.default_rng(seed)
    R, t = motion()
    pixels = torch.from_numpy(rng.uniform([0, 0], [160, 120], (count, 2)).astype(np.float32))
    depth = torch.from_numpy(rng.uniform(2, 5, count).astype(np.float32))
    moved = rigid.lift(pixels, depth, K[0]) @ R.T + t
    depth1 = moved[:, 2].clone()
    depth1[: int(wrong * count)] *= 1.7
    views = Views(
        pixels.T[None], rigid.project(moved, K[0]).T[None], depth[None, None], depth1[None, None],
        K, K,
    )  # fmt: skip
    return views, torch.eye(count)[None], R, t


OPTIONS = SolverOptions(rounds=3, pairs=60, hypotheses=30)


def drawn(scores):
    return draw(scores, OPTIONS, torch.Generator().manual_seed(5))


def test_a_known_motion_is_found_among_wrong_depths():
    views, scores, R, t = seen_points()
    found = solve(views, scores, drawn(scores), OPTIONS)
    assert found.valid.all()
    assert (found.R[0] - R).abs().max() < 1e-4
    assert (found.t[0] - t).abs().max() < 1e-3
    inliers = found.inliers[0]
    assert (inliers[:, 0] == inliers[:, 1]).all()
    assert inliers.min() >= 24


def test_nan_in_one_pair_spoils_nothing_else():
    views, scores, R, _ = seen_points()
    spoilt = views.depth0.clone()
    spoilt[0, 0, 70] = torch.nan
    both = Views(*(torch.cat([v, v]) for v in (views.kps0, views.kps1)),
                 torch.cat([spoilt, spoilt * torch.nan]), torch.cat([views.depth1] * 2),
                 torch.cat([K, K]), torch.cat([K, K]))  # fmt: skip
    draws = drawn(scores)
    draws = Draws(*(torch.cat([d, d]) for d in (draws.pairs, draws.corners)))
    found = solve(both, torch.cat([scores, scores]), draws, OPTIONS)
    assert found.valid.tolist() == [True, False]
    assert (found.R[0] - R).abs().max() < 1e-4
    assert found.confidence[1] == 0
    assert not found.R[1].any()
    assert len(found.inliers[1]) == 0


def test_too_few_possible_pairs_are_refused_in_words():
    with pytest.raises(InvalidInput, match="2 pairs of keypoints are possible"):
        drawn(torch.eye(2)[None])


def test_reflections_become_rotations():
    x = torch.randn(5, 10, 3, generator=torch.Generator().manual_seed(2))
    y = x * torch.tensor([1.0, 1.0, -1.0])
    R, _ = rigid.procrustes(x, y)
    assert torch.allclose(torch.linalg.det(R), torch.ones(5), atol=1e-5)


# --- parity -----------------------------------------------------------------------------------


def folder_of_own_numbers(tmp_path, prefix):
    rng = np.random.default_rng(6)
    golden = {f"net/img_{i}_u8": rng.integers(0, 256, (150, 120, 3), dtype=np.uint8) for i in "AB"}
    golden["net/K"] = K.numpy()
    network = fill(build_mickey(**TINY), prefix)
    scores = torch.from_numpy(
        parity_mickey.network_answers(network, golden)["net/final_scores"].value
    )
    draws = draw(scores, SolverOptions(rounds=2, pairs=30, hypotheses=9), torch.Generator())
    golden["net/solver/idx_matches"] = draws.pairs[0].numpy().astype(np.int32)
    golden["net/solver/idx_ransac"] = draws.corners[0].flatten(0, 1).numpy().astype(np.int16)
    answers = parity_mickey.network_answers(network, golden)
    numbers = {key: answer.value for key, answer in answers.items()}
    numbers["net/A/depth_head.resblock1"] = numbers["net/A/depth_head.resblock1"][:, ::8, ::2, ::2]
    np.savez(tmp_path / "m.npz", **golden, **numbers)
    table = {"weights_prefix": prefix, "mickey": {"files": ["m.npz"]}}
    (tmp_path / "cases.json").write_text(json.dumps(table))
    return numbers


def test_a_folder_with_its_own_prefix_and_size(tmp_path, monkeypatch):
    numbers = folder_of_own_numbers(tmp_path, "other/")
    monkeypatch.setitem(registry.ARCHITECTURES, "mickey", lambda: build_mickey(**TINY))
    report = run_parity(tmp_path, "mickey", lambda rgb, w, h: rgb)
    assert report.passed, report.table()
    assert len(report.rows) == len(numbers) > 80
    content = dict(np.load(tmp_path / "m.npz"))
    content["net/kps1"][0, 1, 7] += 0.01
    content["net/solver/R"][0, 0, 1] += 1e-3
    np.savez(tmp_path / "m.npz", **content)
    report = run_parity(tmp_path, "mickey", lambda rgb, w, h: rgb)
    assert {row.key for row in report.misses} == {"net/kps1", "net/solver/R"}


def test_a_folder_of_functions_that_lacks_inputs_or_holds_them_in_double(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.ARCHITECTURES, "mickey", lambda: build_mickey(**TINY))
    rng = np.random.default_rng(8)
    sides = {"ds/d0": rng.normal(size=(3, 16, 5)), "ds/d1": rng.normal(size=(3, 16, 7))}
    points = {"pc/A": rng.normal(size=(3, 9, 3)), "pc/B": rng.normal(size=(3, 9, 3))}
    logits = np.einsum("bcn,bcm->bnm", *sides.values()) / 0.1
    each = [np.exp(logits - logits.max(axis=k, keepdims=True)) for k in (1, 2)]
    each = [value / value.sum(axis=k + 1, keepdims=True) for k, value in enumerate(each)]
    golden = {**sides, **points, "ds/out_dustbin0": each[0] * each[1]}
    golden["pc/plain_R"] = np.zeros((3, 3, 3))  # follows from pc/w, too, by the layout
    (tmp_path / "cases.json").write_text('{"weights_prefix": "x", "mickey": {"files": ["u.npz"]}}')
    np.savez(tmp_path / "u.npz", **golden)
    report = run_parity(tmp_path, "mickey", lambda rgb, w, h: rgb)
    assert [row.key for row in report.rows if row.within] == ["ds/out_dustbin0"]
    assert report.unknown == ["u.npz: pc/plain_R"]
    assert "u.npz: pc/w is missing" in report.table()
    assert not report.passed
    np.savez(tmp_path / "u.npz", **{k: v for k, v in golden.items() if not k.startswith("pc/")})
    assert run_parity(tmp_path, "mickey", lambda rgb, w, h: rgb).passed
