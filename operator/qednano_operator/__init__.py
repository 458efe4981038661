"""The operator: watches the four kinds and keeps each run's pods and status as its spec wants them.

``watch`` fills a cache, ``reconcile`` (pure) decides from it, ``engine`` acts. Start reading at ``reconcile``.
"""
