"""The arguments and options that several verbs have; each has the name of a function's argument."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from fxprune.clocks import ONNX_RUNTIME, TORCH
from fxprune.criteria import ON_DATA
from fxprune.passes.cost import COSTS
from fxprune.passes.factorisation import FORMS
from fxprune.ranking import NORMS

METHODS = (*NORMS, "random", *ON_DATA, "taylor")
SAMPLERS = ("random", "tpe", "gp", "nsga2", "cmaes", "qmc", "exhaustive", "milp")
SCORES = ("params", "macs", "naswot", "synflow", "snip", "zico", "taylor")
"""What the shell completes; what is known is known elsewhere, and may take seconds to load."""


def completing(known: Sequence[str]) -> Callable[[str], list[str]]:
    """What an incomplete word can go on to."""
    return lambda incomplete: [each for each in known if each.startswith(incomplete)]


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
    typer.Option(
        help="Share to keep: .5 (of the MACs), params=.6, '*.mlp:macs=.8'; repeatable.",
        autocompletion=completing([f"{cost}=" for cost in COSTS]),
    ),
]
ClockText = Annotated[
    str | None,
    typer.Option(
        help="What measures latency=.5: onnxruntime or torch, threads=1, batch=1, "
        "providers=CUDAExecutionProvider, with commas between.",
        autocompletion=completing([ONNX_RUNTIME, TORCH]),
    ),
]
Method = Annotated[
    str,
    typer.Option(
        help="How positions are ranked: group_norm, magnitude, bn_scale, random; on data also "
        "activation, wanda, flap, saliency, block_influence, and with torch taylor.",
        autocompletion=completing(METHODS),
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
        help="Forms that layers may have as two: low_rank, separable, spatial; repeatable.",
        autocompletion=completing(list(FORMS)),
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", "--force", help="Replace what is there; never what is read."),
]
RoundTo = Annotated[int, typer.Option(help="Every group keeps a multiple of this many.")]
Seed = Annotated[
    int, typer.Option(help="Seeds all that is random: weights of a factory, rankings, inputs.")
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Weights for module:factory: a folder that save wrote, or a state_dict as "
        "NAME.safetensors or NAME.pt."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")]
