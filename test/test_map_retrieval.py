"""Which keyframes of a map an image is compared with: words, descriptors, likeness."""

from dataclasses import replace

import numpy as np
import pytest
from fakes.keyframes import map_keyframe, stored_cells

pytest.importorskip("faiss")
pytest.importorskip("gtsam")

from l2m_ros.mapping.descriptor import Vocabulary, learn
from l2m_ros.mapping.drive_recorder import DriveRecorder
from l2m_ros.mapping.likeness import STORED_ERROR, cells, from_grid, likeness
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.queries import Query
from l2m_ros.mapping.relocalizer import Relocalizer
from l2m_ros.mapping.retrieval import PlaceIndex
from l2m_ros.mapping.store import open_map
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.timing import StageTimes
from l2m_ros.types import Lost, LostReason


@pytest.fixture(scope="module")
def matcher():
    return load_matcher("sift", max_points=1000)


def test_vocabulary_tells_images_apart_and_survives_storing():
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(6, 40, 16)).astype(np.float32)
    see = lambda i: kinds[i] + 0.05 * rng.normal(size=(40, 16)).astype(np.float32)  # noqa: E731
    words = learn([see(i) for i in range(6) for _ in range(2)], "toy", "abc")
    words = Vocabulary.from_bytes(words.to_bytes())
    assert (words.model, words.checksum) == ("toy", "abc")
    index = PlaceIndex(list(range(6)), np.stack([words.describe(see(i)) for i in range(6)]))
    assert [index.nearest(words.describe(see(i)), 1)[0][0] for i in range(6)] == list(range(6))
    index.add(9, words.describe(see(2)))
    assert {id for id, _ in index.nearest(words.describe(see(2)), 2)} == {2, 9}


def test_a_keyframe_that_looks_otherwise_is_not_even_loaded(tmp_path, matcher):
    same, other = (stored_cells(i, "sift", "classical") for i in (0, 1))
    store = open_map(str(tmp_path / "map.l2m"), create=True)
    a, b, c = (store.add(map_keyframe(i), cells=kept) for i, kept in enumerate((same, other, None)))
    seen = from_grid(same.grid)
    places = Places(store, matcher)
    for id, kept in ((a, same), (b, other)):
        exact = likeness(seen, from_grid(kept.grid))
        assert exact <= places.most_alike(seen, id) <= exact + 2 * STORED_ERROR
    assert places.most_alike(seen, c) == places.most_alike(None, a) == np.inf
    assert places.most_alike(seen, b) < 0.09 < places.most_alike(seen, a)
    loaded = []
    places.place = loaded.append
    query = Query(map_keyframe(0).frame(), None, np.eye(4), None, seen)
    lost = Relocalizer(places)._sighting(query, b, StageTimes())
    assert lost.reason is LostReason.NOT_CONFIDENT and not loaded
    store.close()


def test_words_are_learnt_from_stored_cells(tmp_path, matcher):
    store = open_map(str(tmp_path / "map.l2m"), create=True)
    kept = [stored_cells(i, "sift", "classical") for i in range(12)]
    ids = [store.add(map_keyframe(i), cells=cells) for i, cells in enumerate(kept)]
    drive = DriveRecorder(store, matcher)
    drive.arrays.get = None  # no image is encoded again
    drive.learn_vocabulary()
    exact = drive.places.vocabulary.describe(from_grid(kept[3].grid).descriptors)
    (found, cosine), *_ = drive.places.index.nearest(exact, 3)
    assert found == ids[3] and cosine > 0.99
    store.close()


def test_what_the_descriptors_rank_badly_is_found_by_its_cells(tmp_path, matcher):
    kept = [stored_cells(i, "sift", "classical") for i in range(4)]
    store = open_map(str(tmp_path / "map.l2m"), create=True)
    eye = {"map_from_camera": np.eye(4), "covariance": np.eye(6)}
    ids = [store.add(map_keyframe(i, **eye), cells=cells) for i, cells in enumerate(kept)]
    bare = store.add(map_keyframe(5, **eye))
    vectors = np.eye(5, 8)[[0, 1, 2, 3, 4]] + 0.1
    store.put_descriptors(b"", dict(zip([*ids, bare], vectors, strict=True)))
    store.vocabulary = lambda: None
    relocalizer = Relocalizer(Places(store, matcher))
    lost = {ids[0]: Lost(LostReason.NOT_CONFIDENT, "tried before")}
    seen = 2 * kept[2].grid + kept[0].grid  # most like the third, which the descriptor ranks last
    query = Query(map_keyframe(0).frame(), None, np.eye(4), None, from_grid(seen))
    query = replace(query, tried=lost, descriptor=np.array([5.0, 4, 1, 3, 2, 0, 0, 0]))
    wider = relocalizer._queries.wider(query, StageTimes())
    assert wider.nearest[0][0] == ids[2] and wider.nearest[0][1] > 0.5
    assert not {ids[0], bare} & {id for id, _ in wider.nearest}
    blind = replace(query, cells=None)
    assert relocalizer._queries.wider(blind, StageTimes()).nearest == ()
    store.close()


def test_likeness_knows_the_same_view_shifted_and_no_other():
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(1, 16, 12, 16)).astype(np.float32)
    other = rng.normal(size=(1, 16, 12, 16)).astype(np.float32)
    seen = {"coarse": grid, "fine": rng.normal(size=(1, 4, 48, 64)).astype(np.float32)}
    here = cells(seen)
    assert here.shape == (12, 16) and here.descriptors.shape == (192, 16)
    assert likeness(here, here) == (11 * 16 + 12 * 15) / 192
    shifted = np.roll(grid, 3, axis=3)
    assert likeness(cells({"coarse": shifted}), here) > 1.5
    assert likeness(cells({"coarse": other}), here) < 0.1
    assert cells({"px": np.zeros((5, 2)), "descriptors": np.eye(5)}) is None


def test_index_of_nothing():
    index = PlaceIndex([], np.zeros((0, 0), np.float32))
    assert index.nearest(np.ones(4, np.float32), 5) == []
    index.add(3, np.ones(4, np.float32))
    assert index.nearest(np.ones(4, np.float32), 5)[0][0] == 3
