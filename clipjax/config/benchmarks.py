"""The benchmarks of the field: what each is called, how it is scored, where its files come from.

Titles, sizes, main metrics, random scores and which tasks are averaged are those of DataComp's
evaluation (Gadre et al. 2023, "DataComp", section 3.5 and appendix N,
https://arxiv.org/abs/2304.14108, `tasklist.yml` of its repository); the names of the others are
those of CLIP_benchmark. Class names and prompts are not here: they come with the data.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

Kind = Literal[
    "classification", "multilabel", "retrieval", "selection", "association", "attributes"
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorstGroup:
    """The lowest accuracy over the groups of a metadata column.

    Attributes:
        name: of the metric.
        field: column of the metadata.
        top: a hit if the label is among so many.
        skip: names of groups that are left out.
    """

    name: str
    field: str
    top: int = 1
    skip: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: of the task; CLIP_benchmark's where it has one.
        title: as tables of results write it.
        kind: how it is scored; None for what the folder says.
        main_metric: the one that is averaged over tasks.
        num_samples: of the published test split; None where it is not one number.
        num_classes: of classification.
        random_score: of the main metric by guessing, as DataComp gives it; None if it gives none.
        folders: names of folders below --data, besides those made from the name.
        columns: names of the columns of the metadata that lie beside each image as `.npy`.
        values: names of the values of a column.
        worst: metrics of groups.
        tags: of the means that it belongs to.
        get: where the files come from.
    """

    name: str
    title: str
    kind: Kind | None = "classification"
    main_metric: str = "acc1"
    num_samples: int | None = None
    num_classes: int | None = None
    random_score: float | None = None
    folders: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    values: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    worst: tuple[WorstGroup, ...] = ()
    tags: tuple[str, ...] = ()
    get: str = ""


AGGREGATES = {
    "imagenet": "ImageNet",
    "shift": "ImageNet dist. shifts",
    "vtab": "VTAB",
    "retrieval": "Retrieval",
}
"""Means that are reported beside the mean of a whole suite, by tag."""

_DATACOMP = "https://huggingface.co/datasets/djghosh/wds_{folder}_test"
_CLIP_BENCHMARK = "https://huggingface.co/datasets/clip-benchmark/wds_{folder}"


def _datacomp(
    name: str, title: str, samples: int, classes: int, score: float | None, *tags: str, **more
) -> Benchmark:
    folder = name.removeprefix("fairness/").replace("/", "-")
    more.setdefault("get", _DATACOMP.format(folder=folder))
    return Benchmark(
        name=name,
        title=title,
        num_samples=samples,
        num_classes=classes,
        random_score=score,
        tags=("datacomp", *tags),
        **more,
    )


def _other(name: str, title: str, classes: int | None = None, *tags: str, **more) -> Benchmark:
    more.setdefault("get", _CLIP_BENCHMARK.format(folder=name.replace("/", "-")))
    return Benchmark(name=name, title=title, num_classes=classes, tags=tags, **more)


_RECALL = "mean_per_class_recall"
_REGIONS = ("Asia", "Europe", "Africa", "Americas", "Oceania", "Other")
_FACES = {
    "kind": "attributes",
    "main_metric": "",
    "columns": ("age", "gender", "race", "race_binary"),
}

_DATACOMP_TASKS = (
    _datacomp("vtab/caltech101", "Caltech-101", 6085, 102, 0.009804, "vtab", main_metric=_RECALL),
    _datacomp("cifar10", "CIFAR-10", 10_000, 10, 0.1, folders=("wds_vtab-cifar10_test",)),
    _datacomp("vtab/cifar100", "CIFAR-100", 10_000, 100, 0.01, "vtab"),
    _datacomp("vtab/clevr_count_all", "CLEVR Counts", 15_000, 8, 0.125061, "vtab"),
    _datacomp("vtab/clevr_closest_object_distance", "CLEVR Distance", 15_000, 6, 0.190520, "vtab"),
    _datacomp("country211", "Country211", 21_100, 211, 0.004739),
    _datacomp("vtab/dtd", "Describable Textures", 1880, 47, 0.021277, "vtab"),
    _datacomp("vtab/eurosat", "EuroSAT", 5400, 10, 0.101483, "vtab"),
    _datacomp("fgvc_aircraft", "FGVC Aircraft", 3333, 100, 0.01, main_metric=_RECALL),
    _datacomp("food101", "Food-101", 25_250, 101, 0.009901),
    _datacomp("gtsrb", "GTSRB", 12_630, 43, 0.037604),
    _datacomp("imagenet1k", "ImageNet 1k", 50_000, 1000, 0.001, "imagenet"),
    _datacomp("imagenet_sketch", "ImageNet Sketch", 50_889, 1000, 0.001, "shift"),
    _datacomp("imagenetv2", "ImageNet v2", 10_000, 1000, 0.001, "shift"),
    _datacomp("imagenet-a", "ImageNet-A", 7500, 200, 0.008056, "shift"),
    _datacomp("imagenet-o", "ImageNet-O", 2000, 200, 0.006047, "shift"),
    _datacomp("imagenet-r", "ImageNet-R", 30_000, 200, 0.006163, "shift"),
    _datacomp(
        "vtab/kitti_closest_vehicle_distance", "KITTI Vehicle Distance", 711, 4, 0.295289, "vtab"
    ),
    _datacomp("mnist", "MNIST", 10_000, 10, 0.100350),
    _datacomp("objectnet", "ObjectNet", 18_574, 113, 0.009481, "shift"),
    _datacomp(
        "vtab/flowers", "Oxford Flowers-102", 6149, 102, 0.009804, "vtab", main_metric=_RECALL
    ),
    _datacomp("vtab/pets", "Oxford-IIIT Pet", 3669, 37, 0.027027, "vtab", main_metric=_RECALL),
    _datacomp("voc2007", "Pascal VOC 2007", 14_976, 20, 0.154038),
    _datacomp("vtab/pcam", "PatchCamelyon", 32_768, 2, 0.5, "vtab"),
    _datacomp("renderedsst2", "Rendered SST2", 1821, 2, 0.500001),
    _datacomp("vtab/resisc45", "RESISC45", 6300, 45, 0.022342, "vtab"),
    _datacomp("cars", "Stanford Cars", 8041, 196, 0.005160),
    _datacomp("stl10", "STL-10", 8000, 10, 0.1),
    _datacomp("sun397", "SUN397", 108_754, 397, 0.004645, "vtab"),
    _datacomp("vtab/svhn", "SVHN", 26_032, 10, 0.117897, "vtab"),
    Benchmark(
        name="flickr30k",
        title="Flickr",
        kind="retrieval",
        main_metric="mean_recall@1",
        num_samples=1000,
        folders=("flickr_1k_test_image_text_retrieval", "flickr30k"),
        tags=("datacomp", "retrieval"),
        get="https://huggingface.co/datasets/nlphuji/flickr_1k_test_image_text_retrieval (its "
        "Parquet files) or " + _CLIP_BENCHMARK.format(folder="flickr30k"),
    ),
    Benchmark(
        name="mscoco_captions",
        title="MSCOCO",
        kind="retrieval",
        main_metric="mean_recall@1",
        num_samples=5000,
        folders=("mscoco_2014_5k_test_image_text_retrieval", "mscoco"),
        tags=("datacomp", "retrieval"),
        get="https://huggingface.co/datasets/nlphuji/mscoco_2014_5k_test_image_text_retrieval "
        "(its Parquet files) or " + _CLIP_BENCHMARK.format(folder="mscoco_captions"),
    ),
    Benchmark(
        name="winogavil",
        title="WinoGAViL",
        kind="association",
        main_metric="jaccard_score_10-12",
        num_samples=3563,
        random_score=0.205,
        folders=("winogavil", "misc-winogavil"),
        tags=("datacomp", "retrieval"),
        get="https://huggingface.co/datasets/nlphuji/winogavil (its Parquet files)",
    ),
    _datacomp(
        "wilds/iwildcam",
        "iWildCam",
        42_791,
        182,
        0.143056,
        main_metric="F1-macro_all",
    ),
    _datacomp(
        "wilds/camelyon17",
        "Camelyon17",
        85_054,
        2,
        0.5,
        columns=("hospital", "slide", "y"),
        worst=(WorstGroup(name="acc_wg", field="slide"),),
    ),
    _datacomp(
        "wilds/fmow",
        "FMoW",
        22_108,
        62,
        0.027193,
        main_metric="acc_worst_region",
        columns=("region", "year", "y"),
        values={"region": _REGIONS},
        # DataComp's evaluator means to leave out "Other", 4 images, but knows groups by number
        # only: they are in its published scores, of which several are therefore exactly 0.
        worst=(
            WorstGroup(name="acc_worst_year", field="year"),
            WorstGroup(name="acc_worst_region", field="region"),
            WorstGroup(name="acc_worst_named_region", field="region", skip=("Other",)),
        ),
    ),
    _datacomp(
        "fairness/dollar_street",
        "Dollar Street",
        3503,
        58,
        None,
        main_metric="acc_top5_wg",
        columns=("income_ds", "income_meta", "region"),
        worst=(WorstGroup(name="acc_top5_wg", field="income_ds", top=5),),
    ),
    _datacomp(
        "fairness/geode",
        "GeoDE",
        12_488,
        40,
        None,
        main_metric="acc_wg",
        columns=("region", "country"),
        worst=(WorstGroup(name="acc_wg", field="region"),),
    ),
)
_FACE_TASKS = (
    Benchmark(
        name="fairness/fairface",
        title="FairFace",
        num_samples=10_954,
        get=_DATACOMP.format(folder="fairface"),
        **_FACES,
    ),
    Benchmark(
        name="fairness/utkface",
        title="UTKFace",
        num_samples=23_703,
        get=_DATACOMP.format(folder="utkface"),
        **_FACES,
    ),
)
_CLIP_BENCHMARK_TASKS = (
    _other("vtab/cifar10", "CIFAR-10", 10),
    _other("fer2013", "FER2013", 7),
    _other(
        "voc2007_multilabel",
        "Pascal VOC 2007 (multilabel)",
        20,
        kind="multilabel",
        main_metric="mean_average_precision",
    ),
    _other("vtab/diabetic_retinopathy", "Diabetic Retinopathy", 5),
    _other("vtab/dmlab", "DMLab", 6),
    _other("vtab/dsprites_label_orientation", "dSprites Orientation", 40),
    _other("vtab/dsprites_label_x_position", "dSprites x Position", 32),
    _other("vtab/dsprites_label_y_position", "dSprites y Position", 32),
    _other("vtab/smallnorb_label_azimuth", "SmallNORB Azimuth", 18),
    _other("vtab/smallnorb_label_elevation", "SmallNORB Elevation", 9),
    _other("flickr8k", "Flickr8k", kind="retrieval", main_metric="mean_recall@1"),
    _other(
        "winoground",
        "Winoground",
        kind="selection",
        main_metric="acc",
        get="https://huggingface.co/datasets/facebook/winoground (after its conditions are "
        "accepted): its Parquet files, or data/examples.jsonl with the folder images beside it",
    ),
)
# fmt: off
_XM3600 = (
    "ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "he", "hi", "hr", "hu",
    "id", "it", "ja", "ko", "mi", "nl", "no", "pl", "pt", "quz", "ro", "ru", "sv", "sw", "te", "th",
    "tr", "uk", "vi", "zh",
)
_XTD10 = ("de", "en", "es", "fr", "it", "jp", "ko", "pl", "ru", "tr", "zh")
_SUGAR_CREPE = (
    "add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj",
)
# fmt: on
_LANGUAGE_TASKS = (
    *(
        _other(
            f"crossmodal3600/{language}",
            f"XM3600 {language}",
            kind="retrieval",
            main_metric="mean_recall@1",
            folders=("crossmodal3600",),
            get="https://google.github.io/crossmodal-3600: images, and the captions of a language "
            f"as crossmodal3600_captions-{language}.json with image_paths and annotations",
        )
        for language in _XM3600
    ),
    *(
        _other(
            f"xtd10/{language}",
            f"XTD10 {language}",
            kind="retrieval",
            main_metric="mean_recall@1",
            folders=("xtd10",),
            get="https://github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10: captions of "
            f"a language as xtd10-{language}.json with image_paths and annotations, images of "
            "MSCOCO",
        )
        for language in _XTD10
    ),
)
_COMPOSITIONAL_TASKS = tuple(
    _other(
        f"sugar_crepe/{subset}",
        f"SugarCrepe {subset}",
        kind="selection",
        main_metric="text_acc",
        folders=("sugar_crepe",),
        get=f"https://github.com/RAIVNLab/sugar-crepe: data/{subset}.json, with the images of "
        "MSCOCO val2017 in a folder of that name beside it",
    )
    for subset in _SUGAR_CREPE
)

BENCHMARKS: Mapping[str, Benchmark] = {
    one.name: one
    for one in (
        *_DATACOMP_TASKS,
        *_FACE_TASKS,
        *_CLIP_BENCHMARK_TASKS,
        *_LANGUAGE_TASKS,
        *_COMPOSITIONAL_TASKS,
    )
}
"""Benchmarks by name."""

ALIASES: Mapping[str, str] = {
    "retrieval/flickr_1k_test_image_text_retrieval": "flickr30k",
    "retrieval/flickr30k": "flickr30k",
    "retrieval/mscoco_2014_5k_test_image_text_retrieval": "mscoco_captions",
    "misc/winogavil": "winogavil",
    "caltech101": "vtab/caltech101",
    "cifar100": "vtab/cifar100",
    "dtd": "vtab/dtd",
    "eurosat": "vtab/eurosat",
    "flowers": "vtab/flowers",
    "pets": "vtab/pets",
    "pcam": "vtab/pcam",
    "resisc45": "vtab/resisc45",
    "svhn": "vtab/svhn",
    "imagenet": "imagenet1k",
    "imagenet_v2": "imagenetv2",
    "imagenet-sketch": "imagenet_sketch",
}
"""Other names of some, as other lists write them."""
