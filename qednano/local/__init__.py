"""The embedded default: the roles of a run as processes of this machine, no cluster and no root.

Start reading at ``session.py`` (several runs in order); ``supervise.py`` runs one of them, ``process.py``
starts its processes and ``tether.py`` makes sure that none of them outlives the runner.
"""
