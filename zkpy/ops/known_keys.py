"""Keys of Apache's documentation that this server accepts without acting on them.

Owns the lists and the reasons; ``config`` declares the keys that have a field. A key stands here or there, never in both.
What is listed as ``SILENT`` only steers a JVM's logging or tools and is passed over without a word, because Apache's own
scripts put it on every command line.
"""

from __future__ import annotations

from zkpy.ops import values

# Parsed by Apache itself, so that a bad value stops the start here as well.
STATIC = {
    "electionAlg": values.integer,
    "jvm.pause.monitor": values.strict_boolean,
    "jvm.pause.warn-threshold.ms": values.long,
    "jvm.pause.info-threshold.ms": values.long,
    "jvm.pause.sleep.time.ms": values.long,
    "metricsProvider.className": values.text,
    "quorum.cnxn.threads.size": values.integer,
}
STATIC_PREFIXES = ("metricsProvider.",)

# System properties "zookeeper.<key>".
PROPERTIES = frozenset(
    {
        # cluster: with the ensemble
        "follower.skipLearnerRequestToNextProcessor",
        "forward_learner_requests_to_commit_processor_disabled",
        "kerberos.canonicalizeHostNames",
        "leader.ackLoggingFrequency",
        "leader.closeSocketAsync",
        "learner.asyncSending",
        "learner.closeSocketAsync",
        "messageTracker.BufferSize",
        "messageTracker.Enabled",
        "observer.syncEnabled",
        "test.allowDiscontinuousProposals",
        "testingonly.initialZxid",
        # threads, buffers and libraries of the JVM
        "bitHashCacheSize",
        "commitProcessor.maxCommitBatchSize",
        "commitProcessor.maxReadBatchSize",
        "commitProcessor.numWorkerThreads",
        "commitProcessor.shutdownTimeout",
        "intBufferStartingSizeBytes",
        "jmx.log4j.disable",
        "jmx.log4j.mbean",
        "maxInProcessingDeadWatchers",
        "maxWriteQueuePollTime",
        "netty.advancedFlowControl.enabled",
        "netty.server.earlyDropSecureConnectionHandshakes",
        "netty.server.outstandingHandshake.limit",
        "nio.directBufferBytes",
        "nio.numSelectorThreads",
        "nio.numWorkerThreads",
        "nio.shutdownTimeout",
        "serverCnxnFactory",
        "watchManagerName",
        "watcherCleanIntervalInSeconds",
        "watcherCleanThreadsNum",
        "watcherCleanThreshold",
        # admin server, audit log, statistics
        "IPAuthenticationProvider.usexforwardedfor",
        "audit.enable",
        "audit.impl.class",
        # Kerberos
        "kerberos.minReLoginTimeMs",
        "kinit",
        "requireKerberosConfig",
        "security.auth_to_local",
        "server.realm",
        # the title of connection_throttle_tokens in Apache's manual, which no server reads
        "connectionMaxTokens",
        # read by clients only
        "client.secure",
        "clientCnxnSocket",
        "disableAutoWatchReset",
        "hostProvider.dnsSrvRefreshIntervalSeconds",
        "request.timeout",
        "server.principal",
        "shuffleDnsResponse",
    }
)
PROPERTY_PREFIXES = ("admin.", "pathStats.", "sasl.client", "ssl.quorum.")

# System properties that carry no "zookeeper." in front.
AS_IS = frozenset(
    {
        "follower.nodelay",
        "leader.closeSocketAsync",
        "leader.nodelay",
        "learner.asyncSending",
        "learner.closeSocketAsync",
    }
)
# Such properties in a file are Java's own and keep their names as well.
AS_IS_PREFIXES = ("java.", "javax.", "jdk.", "sun.")

# "zookeeper.<key>" as Apache's scripts and logging configuration set them.
SILENT = frozenset(
    {
        "auditlog.file",
        "auditlog.threshold",
        "console.threshold",
        "log.dir",
        "log.file",
        "log.maxbackupindex",
        "log.maxfilesize",
        "log.threshold",
        "root.logger",
        "tracelog.dir",
        "tracelog.file",
    }
)
