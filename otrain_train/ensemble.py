"""Ensembles: several networks joined to one whose score is the mean of theirs, and taken apart again."""

from collections.abc import Sequence

import keras

NAME = "ensemble"
MEAN = "mean"


def join(networks: Sequence[keras.Model]) -> keras.Model:
    """Join networks to one that gives the mean of what they give.

    Parameters
    ----------
    networks
        Of the same input and output, such as several of `otrain_train.network.build`. They are parts of the new one
        and share their weights with it.

    Returns
    -------
    keras.Model
        Not compiled; a single network itself.
    """
    if len(networks) == 1:
        return networks[0]
    cutouts = keras.Input(networks[0].input_shape[1:], name="cutouts")
    # Parts of a network need names of their own, and all members have that of their architecture.
    members = [_named(network, f"{network.name}_{i}") for i, network in enumerate(networks, start=1)]
    return keras.Model(cutouts, keras.layers.Average(name=MEAN)([each(cutouts) for each in members]), name=NAME)


def members_of(network: keras.Model) -> list[keras.Model]:
    """Give the networks that `join` joined, in order; `network` itself where it is a single one."""
    layers = [each for each in getattr(network, "layers", ()) if not isinstance(each, keras.layers.InputLayer)]
    *members, mean = layers or [None]
    joined = isinstance(mean, keras.layers.Average) and all(isinstance(each, keras.Model) for each in members)
    if not joined or len(members) < 2:
        return [network]
    return [_named(each, each.name.rpartition("_")[0] or each.name) for each in members]


def _named(network: keras.Model, name: str) -> keras.Model:
    return keras.Model(network.inputs[0], network.outputs[0], name=name)
