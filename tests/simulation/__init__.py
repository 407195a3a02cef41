"""Whole ensembles in one process and one thread, in virtual time, from one seed.

    world       the clock, the queue of events, all chance, the trace
    scenario    what a run is like
    network     connections as TCP has them; mesh and ports put the shells of `zkpy.net` upon it
    disk        the log thread, effects and snapshots on a `MemoryFs`, stopped anywhere
    server      the production peer, driver and storage of a member, assembled as `zkpy.server` does
    clients     sessions and requests, every answer checked at once
    faults      crashes, lost power, pauses, partitions, broken connections, slow disks
    ledger      everything that was ever logged, and what of it was committed
    checks      the promises, looked at after every input of every server
    cluster     one run: harm, then peace, then all have to agree
    runner      `make sim`

What is real: peer, election, leader, learner, services, driver, disk, log, snapshots, epochs, recovery, the bytes between servers
and from and to clients. What is simulated: the loop, the threads, sockets, the disk itself and the clocks. `regressions.txt` lists
the seeds that have found something; `test_checks` shows each check a history that it has to refuse.
"""
