"""The arguments and options that several verbs have; each has the name of a function's argument."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(metavar="SOURCE", help="An .onnx file or module:factory.")]
Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="NAME.onnx; for torch also a folder for save.")
]
Shape = Annotated[
    list[str] | None,
    typer.Option(help="Shape of an input, 1,3,224,224 or x=1,3,224,224; once per input."),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(help="What stays: a layer, a pattern '*.mlp', a kind '*: heads'; repeatable."),
]
Target = Annotated[
    list[str] | None,
    typer.Option(help="Share to keep: .5 (of the MACs), params=.6, '*.mlp:macs=.8'; repeatable."),
]
Method = Annotated[
    str,
    typer.Option(
        help="How positions are ranked: group_norm, magnitude, bn_scale, random; on data also "
        "activation, wanda, flap, saliency, block_influence, and with torch taylor."
    ),
]
Data = Annotated[
    str | None, typer.Option(help="Calibration data: .npz, a folder of images, or module:name.")
]
Correct = Annotated[
    bool, typer.Option("--correct", help="Refit the weights behind closed positions on the data.")
]
Least = Annotated[
    list[str] | None,
    typer.Option(help="Share that groups keep at least: .1, layer1=.2, '*: heads=.5'; repeatable."),
]
Uniform = Annotated[
    list[str] | None,
    typer.Option(
        help="What keeps equal numbers in repeated blocks: '*', '*.mlp', '*: heads'; repeatable."
    ),
]
Factorise = Annotated[
    list[str] | None,
    typer.Option(
        help="Forms that layers may have as two: low_rank, separable, spatial; repeatable."
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", "--force", help="Replace what is there; never what is read."),
]
RoundTo = Annotated[int, typer.Option(help="Every group keeps a multiple of this many.")]
Seed = Annotated[int, typer.Option(help="Seeds the random inputs.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")]
