"""Archives of pictures labelled on dask.distributed: ``fracbnn bulk``.

``sources`` lists the pictures, ``partitions`` cuts the list into tasks, ``tasks`` is what a worker does with one,
``cluster`` where the workers come from, ``dataset`` what is written, and ``run`` keeps a bounded number of tasks going.
"""
