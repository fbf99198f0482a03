"""The command with which candidates are sorted by eye: its parser and a short function; imports are inside."""

import getpass
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from otrain_infer.command import DONE, number, run
from otrain_train.config import ConfigParser, add_rule, plane_names

if TYPE_CHECKING:
    from otrain_train.verdicts import Rule

ORDERS = ("name", "random", "uncertainty", "disagreement")


def _me() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in some containers
        return "me"


def _label_parser() -> ConfigParser:
    parser = ConfigParser(
        prog="otrain-label", description="Sort candidates by eye, on a page in the browser; votes go to labels.csv."
    )
    option = parser.add_argument
    option("folder", type=Path, help="folder of the candidates; folders below it count as well")
    option("--model", type=Path, help="ONNX file whose scores are shown")
    option("--other-model", type=Path, help="another one, to look where the two disagree")
    option("--order", choices=ORDERS, default="name", help="which candidates come first")
    option("--seed", type=int, default=0, help="decides the order at random, and which looks are blind")
    option("--labeller", default=_me(), help="who votes; the page can change it")
    option("--blind-fraction", type=number, default=0.1, help="part of the looks that are blind second looks")
    option("--planes", type=plane_names, default="", help="planes to show, such as SCI,REF,DIFF; if not given, all")
    option("--labels", type=Path, help="file of the votes; if not given, labels.csv in the folder")
    option("--host", default="127.0.0.1", help="address to listen on")
    option("--port", type=int, default=8642, help="port to listen on; 0 takes any that is free")
    option("--token", default="", help="what the page asks for; if not given, one that is kept for you")
    option("--no-browser", action="store_true", help="open no browser")
    option("--unsorted", action="store_true", help="show only candidates that lie in no folder true or false yet")
    option("--move", action="store_true", help="move candidates to true/ and false/ as the votes say, and end")
    option("--undo-move", action="store_true", help="move back those that were moved last, and end")
    add_rule(parser)
    return parser


def label(argv: Sequence[str] | None = None) -> int:
    """Run otrain-label."""
    return run(_label_parser(), _label, argv)


def _label(arguments: Namespace) -> int:
    from otrain_infer.errors import UsageError
    from otrain_train.verdicts import Rule

    rule = Rule(arguments.min_votes, arguments.min_agreement, arguments.weights)
    if arguments.move and arguments.undo_move:
        raise UsageError("--move and --undo-move are opposites: give one of them")
    if arguments.move or arguments.undo_move:
        return _move(arguments, rule)
    if arguments.other_model and not arguments.model:
        raise UsageError("--other-model is a second one: give --model as well")
    from otrain_train.label.desk import DeskSettings
    from otrain_train.label.serve import ServerSettings, serve

    desk = DeskSettings(
        labeller=arguments.labeller,
        models=tuple(filter(None, (arguments.model, arguments.other_model))),
        order=arguments.order,
        seed=arguments.seed,
        blind_fraction=arguments.blind_fraction,
        planes=arguments.planes,
        labels=arguments.labels,
        rule=rule,
        unsorted=arguments.unsorted,
    )
    server = ServerSettings(arguments.host, arguments.port, arguments.token, not arguments.no_browser)
    serve(arguments.folder, desk, server)
    return DONE


def _move(arguments: Namespace, rule: "Rule") -> int:
    from otrain_train.candidate_folder import find_candidates
    from otrain_train.label.moves import move, plan_moves, undo
    from otrain_train.votes import read_votes

    candidates = find_candidates(arguments.folder)
    if arguments.undo_move:
        print(f"{undo(candidates)} candidates moved back")
        return DONE
    tally = read_votes(arguments.labels or arguments.folder / "labels.csv")
    rule.warn_of_strangers(tally)
    plan = plan_moves(candidates, tally, rule)
    print(f"{move(candidates, plan)} candidates moved: {plan}")
    return DONE
