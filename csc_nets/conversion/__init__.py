"""Somebody's own network as a network of sparse codes: conversion, its summary, its densities, and the way back."""

from csc_nets.conversion.convert import convert, freeze_dictionaries, to_plain
from csc_nets.conversion.density import calibrate_density
from csc_nets.conversion.layer import Converted, ConvertedConv, ConvertedLinear
from csc_nets.conversion.measures import Conversion

__all__ = [
    "Conversion",
    "Converted",
    "ConvertedConv",
    "ConvertedLinear",
    "calibrate_density",
    "convert",
    "freeze_dictionaries",
    "to_plain",
]
