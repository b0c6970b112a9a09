"""Every published layout that `l2m scene import` reads, by name."""

from __future__ import annotations

from l2m_ros.workshop.importers import euroc, kitti, pair_lists, seven_scenes, tum
from l2m_ros.workshop.importers.dataset import Dataset

DATASETS: dict[str, Dataset] = {
    "tum": tum.DATASET,
    "euroc": euroc.DATASET,
    "kitti": kitti.DATASET,
    "7scenes": seven_scenes.DATASET,
    "scannet1500": pair_lists.SCANNET,
    "megadepth1500": pair_lists.MEGADEPTH,
}
