"""The contracts: what a strategy is given, what it answers, and what it may never see.

Axes have the same names everywhere::

    B  rows of the batch (with guidance: conditioned rows first, then the unconditioned)
    H  heads               L  layers               K  scales of the schedule
    n  tokens of the current map                   N  cached tokens followed by the n current ones
    D  width of a head     keep  tokens that are kept

Plans and roles are numpy arrays on the host, made before the first token is generated; tensors appear only in views and
codes.
"""
