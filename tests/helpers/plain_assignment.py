"""A plain second implementation of the choice of cells in task-aligned assignment, in loops."""

import numpy as np
import torch


def choose_cells(inside, u, t, topk, topk2):
    """Return lists of each cell's object (or None) and of its soft target.

    Args:
        inside: (G, A) 1 where a cell's centre lies in an object.
        u: (G, A) overlap of each object with the cell's prediction, zero outside.
        t: (G, A) alignment, zero outside.
        topk: number of cells that an object may select.
        topk2: number of cells that are assigned to an object.
    """
    objects, cells = (range(count) for count in inside.shape)
    picks = np.zeros_like(inside)
    for g in objects:
        picks[g, torch.tensor(t[g]).topk(min(topk, len(cells))).indices] = 1  # of equal ones it may take any
    picks *= inside
    for a in cells:
        if picks[:, a].sum() > 1:
            picks[:, a] = np.arange(len(objects)) == u[:, a].argmax()
    if topk2 != topk:
        for g in objects:
            chosen = sorted(cells, key=lambda a: -t[g, a] * picks[g, a])[:topk2]
            picks[g] = [picks[g, a] if a in chosen else 0 for a in cells]
    owner, score = [None] * len(cells), [0.0] * len(cells)
    for a in cells:
        for g in objects:
            if picks[g, a]:
                owner[a] = g
                score[a] = t[g, a] * (u[g] * picks[g]).max() / ((t[g] * picks[g]).max() + 1e-9)
    return owner, score
