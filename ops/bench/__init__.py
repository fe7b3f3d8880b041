"""Benchmark of the transposed convolution: `python -m convt3d bench`.

Find your way by file:

- `cases`        the shapes, their groups, and the parser of `--cases`
- `floor`        operations, bytes and the least time a device could need
- `problem`      the tensors of one case, in rotation past the last-level cache
- `peers`        what is timed: this package and what stands next to it
- `reference`    values of the definition in float64
- `check`        what every timed row must pass: float64 samples, and every element of ours
- `timing`       CUDA events, CUDA graphs, wall clock
- `worker`       the process that times one implementation
- `runner`       starts the workers, asks them cell by cell, survives their death
- `environment`  device, versions, clocks, measured peaks, cold start
- `results`      the result file: schema, load, save, merge
- `report`, `plots`, `compare`, `display`  what is made of the rows

Nothing here needs `rich` or `matplotlib` until a table or a picture is drawn
(`pip install convt3d[bench]`).
"""
