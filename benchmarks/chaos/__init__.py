"""Labs to which something happens, and what they say afterwards: ``python -m benchmarks.chaos``.

:mod:`scene` is one lab and its command line, :mod:`events` the table of what may happen to it, :mod:`host` what a lab
leaves on a host, :mod:`facts` what a run says of itself, and :mod:`judge` - pure - what of all that is a fault.
"""
