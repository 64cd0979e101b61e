"""Run with MindSpore: the batches of some steps. python batches.py EXPORTED TOKENS SEED SEQUENCES OUT STEP..."""

import sys

import numpy

sys.path.insert(0, sys.argv[1])

from train_mindspore import Rows

rows = Rows(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
numpy.save(sys.argv[5], numpy.stack([numpy.stack(rows.batch(int(step))) for step in sys.argv[6:]]))
