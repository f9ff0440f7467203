"""Entries: the classic methods in the catalog, from the plainest to the slowest, and those of colour."""

from segcore.models.architecture import Architecture
from segcore.models.classic.colour import NDVIArguments, NDWIArguments, Stain, StainArguments, ndvi, ndwi
from segcore.models.classic.graph_cut import GraphCut, GraphCutArguments
from segcore.models.classic.grey import GreyArguments
from segcore.models.classic.growing import (
    EdgesWatershed,
    EdgesWatershedArguments,
    MarkerArguments,
    RandomWalker,
    RandomWalkerArguments,
    RegionGrowing,
)
from segcore.models.classic.regions import Felzenszwalb, FelzenszwalbArguments, Slic, SlicArguments
from segcore.models.classic.thresholds import (
    GreyMaskArguments,
    LocalThreshold,
    LocalThresholdArguments,
    MultiOtsu,
    Otsu,
    Threshold,
    ThresholdArguments,
)

_SIDES = "arguments.foreground=bright|dark|rarer"
_BLUR = "arguments.sigma=0..3"
_SMALLEST = "arguments.min_size=0|20|60"
_MARGIN = "arguments.margin=0.01..0.3"
_INDEX = "arguments.threshold=-1..1"

CLASSIC: dict[str, Architecture] = {
    "threshold": Architecture(
        ThresholdArguments,
        Threshold,
        "fixed threshold",
        "classic",
        "",
        "brightness alone tells, and alike in all images: exact, and the fastest",
        4,
        searched=(_SIDES, "arguments.threshold=0.02..0.9", _BLUR),
    ),
    "otsu": Architecture(
        GreyMaskArguments,
        Otsu,
        "Otsu's threshold",
        "classic",
        "Otsu, A Threshold Selection Method from Gray-Level Histograms, 1979",
        "bright or dark objects on an even ground, in images that differ in light",
        None,
        searched=(_SIDES, "arguments.sigma=0..4", _SMALLEST),
    ),
    "multi_otsu": Architecture(
        GreyArguments,
        MultiOtsu,
        "multi-Otsu",
        "classic",
        "Liao et al., A Fast Algorithm for Multilevel Thresholding, 2001",
        "three to five classes that differ in brightness, in the order of their numbers",
        None,
        searched=(_SIDES, "arguments.sigma=0..4"),
    ),
    "local_threshold": Architecture(
        LocalThresholdArguments,
        LocalThreshold,
        "local threshold",
        "classic",
        "Niblack, An Introduction to Digital Image Processing, 1986",
        "objects smaller than the window on uneven ground: shadows, vignettes, text",
        29,
        searched=(_SIDES, "arguments.window=21..301", "arguments.offset=0..0.2", _BLUR),
    ),
    "edges_watershed": Architecture(
        EdgesWatershedArguments,
        EdgesWatershed,
        "edges and watershed",
        "classic",
        "Meyer, Un algorithme optimal pour la ligne de partage des eaux, 1991",
        "objects with clear edges and uneven insides",
        None,
        searched=(_SIDES, _MARGIN, _BLUR, "arguments.edges=sobel|canny"),
    ),
    "region_growing": Architecture(
        MarkerArguments,
        RegionGrowing,
        "region growing",
        "classic",
        "Canny, A Computational Approach to Edge Detection, 1986 (hysteresis)",
        "objects with a sure core that fade outwards, beside faint noise",
        None,
        searched=(_SIDES, _BLUR, _MARGIN),
    ),
    "felzenszwalb": Architecture(
        FelzenszwalbArguments,
        Felzenszwalb,
        "Felzenszwalb's regions",
        "classic",
        "Felzenszwalb and Huttenlocher, Efficient Graph-Based Image Segmentation, 2004",
        "colour images with even areas of any size: fields, roofs",
        None,
        searched=(_SIDES, _BLUR, "arguments.scale=20..500"),
    ),
    "slic": Architecture(
        SlicArguments,
        Slic,
        "SLIC superpixels",
        "classic",
        "Achanta et al., SLIC Superpixels Compared to State-of-the-Art Superpixel Methods, 2012",
        "noisy images whose areas are larger than a superpixel",
        None,
        searched=(_SIDES, _BLUR, "arguments.segment_px=4..40"),
    ),
    "random_walker": Architecture(
        RandomWalkerArguments,
        RandomWalker,
        "random walker",
        "classic",
        "Grady, Random Walks for Image Segmentation, 2006",
        "weak or broken borders in noise; slow",
        None,
        searched=(_SIDES, _BLUR, _MARGIN, "arguments.beta=10..1000"),
    ),
    "graph_cut": Architecture(
        GraphCutArguments,
        GraphCut,
        "graph cut",
        "classic",
        "Boykov and Jolly, Interactive Graph Cuts for Optimal Boundary and Region Segmentation, 2001",
        "much noise, and smooth borders that lie where values change; slow",
        None,
        searched=(_SIDES, _BLUR, "arguments.smoothness=0.01..1", "arguments.contrast=0.02..0.5"),
    ),
    "stain": Architecture(
        StainArguments,
        Stain,
        "stain separation",
        "classic",
        "Ruifrok and Johnston, Quantification of Histochemical Staining by Color Deconvolution, 2001",
        "histology: nuclei by haematoxylin, antibodies by DAB",
        0,
        searched=(_BLUR, "arguments.threshold=0.02..1", _SMALLEST),
    ),
    "ndvi": Architecture(
        NDVIArguments,
        ndvi,
        "NDVI rule",
        "classic",
        "Rouse et al., Monitoring Vegetation Systems in the Great Plains with ERTS, 1974",
        "plants in images with red and near infrared",
        0,
        searched=(_INDEX, _BLUR),
    ),
    "ndwi": Architecture(
        NDWIArguments,
        ndwi,
        "NDWI rule",
        "classic",
        "McFeeters, The Use of the Normalized Difference Water Index (NDWI) in the Delineation of Open Water Features, "
        "1996",
        "open water in images with green and near infrared",
        0,
        searched=(_INDEX, _BLUR),
    ),
}
