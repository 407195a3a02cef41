import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentSkipListSet;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.api.transaction.CuratorOp;
import org.apache.curator.framework.api.transaction.CuratorTransactionResult;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.barriers.DistributedBarrier;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.cache.CuratorCacheListener;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.leader.LeaderSelector;
import org.apache.curator.framework.recipes.leader.LeaderSelectorListenerAdapter;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.nodes.GroupMember;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.curator.framework.recipes.nodes.PersistentTtlNode;
import org.apache.curator.framework.recipes.queue.SimpleDistributedQueue;
import org.apache.curator.framework.recipes.shared.SharedCount;
import org.apache.curator.framework.recipes.watch.PersistentWatcher;
import org.apache.curator.retry.RetryOneTime;
import org.apache.zookeeper.AddWatchMode;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.ZooDefs;
import org.apache.zookeeper.data.Stat;

/** The scenario of the real clients, played by Curator and its recipes. One line per step; no times, no session ids. */
public class Scenario {
    interface Step { Object run() throws Exception; }

    static String address;

    static CuratorFramework connect() throws Exception {
        CuratorFramework c = CuratorFrameworkFactory.builder().connectString(address).sessionTimeoutMs(8000)
            .connectionTimeoutMs(8000).retryPolicy(new RetryOneTime(100)).build();
        c.start();
        c.blockUntilConnected();
        return c;
    }

    static void step(String name, Step body) {
        String text;
        try {
            text = String.valueOf(body.run());
        } catch (KeeperException e) {
            text = e.code() + " " + e.getPath();
        } catch (Exception e) {
            text = e.getClass().getSimpleName() + " " + e.getMessage();
        }
        System.out.println(name + ": " + text);
    }

    static byte[] bytes(String s) { return s.getBytes(StandardCharsets.UTF_8); }

    static String text(byte[] b) { return b == null ? null : new String(b, StandardCharsets.UTF_8); }

    static String show(Stat s) {
        return s == null ? "no stat" : "version=" + s.getVersion() + " cversion=" + s.getCversion() + " aversion=" + s.getAversion() + " ephemeral="
            + (s.getEphemeralOwner() != 0) + " length=" + s.getDataLength() + " children=" + s.getNumChildren() + " fresh=" + (s.getCzxid() == s.getMzxid());
    }

    static boolean eventually(BooleanSupplier condition) throws Exception {
        long end = System.nanoTime() + 8_000_000_000L;
        while (!condition.getAsBoolean()) {
            if (System.nanoTime() > end) return false;
            Thread.sleep(20);
        }
        return true;
    }

    static boolean absent(CuratorFramework c, String path) {
        try {
            return c.checkExists().forPath(path) == null;
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    static List<String> children(CuratorFramework c, String path) throws Exception {
        List<String> names = new ArrayList<>(c.getChildren().forPath(path));
        Collections.sort(names);
        return names;
    }

    public static void main(String[] args) throws Exception {
        address = args[0];
        CuratorFramework a = connect(), b = connect();
        nodes(a);
        transactions(a);
        watches(a, b);
        locks(a, b);
        leaders(a, b);
        counters(a, b);
        others(a, b);
        access(a);
        b.close();
        System.out.println("its node goes with it: " + eventually(() -> absent(a, "/curator/persistent")));
        a.close();
        System.exit(0);
    }

    static void nodes(CuratorFramework a) throws Exception {
        System.out.println("# nodes");
        step("create with parents", () -> a.create().creatingParentsIfNeeded().forPath("/curator/a/b", bytes("x")));
        step("create again", () -> a.create().forPath("/curator/a/b"));
        step("create or set", () -> a.create().orSetData().forPath("/curator/a/b", bytes("y")));
        step("data", () -> text(a.getData().forPath("/curator/a/b")));
        Stat stat = new Stat();
        step("create with stat", () -> a.create().storingStatIn(stat).forPath("/curator/stat", bytes("s")));
        System.out.println(show(stat));
        step("protected sequential", () -> a.create().withProtection().withMode(CreateMode.EPHEMERAL_SEQUENTIAL).forPath("/curator/p-")
            .replaceAll("_c_[0-9a-f-]{36}", "_c_<uuid>"));
        step("container parents", () -> a.create().creatingParentContainersIfNeeded().forPath("/curator/container/x/child", bytes("c")));
        step("container mode", () -> a.create().withMode(CreateMode.CONTAINER).forPath("/curator/container2"));
        step("ttl", () -> a.create().withTtl(3_600_000).withMode(CreateMode.PERSISTENT_WITH_TTL).forPath("/curator/ttl", bytes("t")));
        step("ttl sequential", () -> a.create().withTtl(3_600_000).withMode(CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL).forPath("/curator/ttl-"));
        step("compressed", () -> a.create().compressed().forPath("/curator/gz", bytes("zzzzzzzzzz")));
        step("compressed data", () -> text(a.getData().decompressed().forPath("/curator/gz")));
        step("set wrong version", () -> show(a.setData().withVersion(7).forPath("/curator/a/b", bytes("z"))));
        step("set", () -> show(a.setData().withVersion(1).forPath("/curator/a/b", bytes("z"))));
        step("exists", () -> show(a.checkExists().forPath("/curator/a/b")));
        step("exists none", () -> show(a.checkExists().forPath("/curator/none")));
        step("delete with children", () -> a.delete().forPath("/curator/a"));
        step("delete children", () -> a.delete().guaranteed().deletingChildrenIfNeeded().forPath("/curator/a"));
        step("delete none", () -> a.delete().forPath("/curator/a"));
        step("delete quietly", () -> a.delete().quietly().forPath("/curator/a"));
        // A container goes when its last child has gone, and its parent after it.
        step("empty the container", () -> a.delete().forPath("/curator/container/x/child"));
        System.out.println("containers gone: " + eventually(() -> absent(a, "/curator/container")));
        step("sync", () -> { a.sync().forPath("/curator"); return "sent"; });
        step("children", () -> children(a, "/curator").toString().replaceAll("_c_[0-9a-f-]{36}", "_c_<uuid>"));
        CountDownLatch background = new CountDownLatch(2);
        List<String> answers = Collections.synchronizedList(new ArrayList<>());
        a.getData().inBackground((c, e) -> { answers.add(e.getType() + " " + e.getResultCode() + " " + text(e.getData())); background.countDown(); }).forPath("/curator/stat");
        a.getData().inBackground((c, e) -> { answers.add(e.getType() + " " + e.getResultCode() + " " + text(e.getData())); background.countDown(); }).forPath("/curator/none");
        background.await(5, TimeUnit.SECONDS);
        System.out.println("in background: " + answers);
        step("config", () -> text(a.getConfig().forEnsemble()));
    }

    static void transactions(CuratorFramework a) throws Exception {
        System.out.println("# transactions");
        CuratorOp create = a.transactionOp().create().forPath("/curator/t", bytes("1"));
        CuratorOp sequential = a.transactionOp().create().withMode(CreateMode.PERSISTENT_SEQUENTIAL).forPath("/curator/t/s-");
        CuratorOp set = a.transactionOp().setData().withVersion(0).forPath("/curator/t", bytes("22"));
        CuratorOp check = a.transactionOp().check().withVersion(1).forPath("/curator/t");
        CuratorOp wrong = a.transactionOp().check().withVersion(9).forPath("/curator/t");
        CuratorOp delete = a.transactionOp().delete().forPath("/curator/t/s-0000000000");
        for (List<CuratorOp> ops : List.of(List.of(create, sequential, set, check, delete), List.of(set, wrong, delete), List.of(check, wrong))) {
            try {
                for (CuratorTransactionResult r : a.transaction().forOperations(ops))
                    System.out.println("  " + r.getType() + " " + r.getForPath() + " -> " + r.getResultPath() + " " + show(r.getResultStat()) + " " + r.getError());
            } catch (KeeperException e) {
                System.out.println("  " + e.code());
                for (org.apache.zookeeper.OpResult r : e.getResults())
                    System.out.println("    " + r.getType() + (r instanceof org.apache.zookeeper.OpResult.ErrorResult ? " " + ((org.apache.zookeeper.OpResult.ErrorResult) r).getErr() : ""));
            }
        }
        step("data", () -> text(a.getData().forPath("/curator/t")));
    }

    static void watches(CuratorFramework a, CuratorFramework b) throws Exception {
        System.out.println("# watches and caches");
        List<String> seen = Collections.synchronizedList(new ArrayList<>());
        b.create().forPath("/curator/w");
        PersistentWatcher recursive = new PersistentWatcher(a, "/curator/w", true);
        recursive.getListenable().addListener(e -> seen.add(e.getType() + " " + e.getPath()));
        recursive.start();
        List<String> cached = Collections.synchronizedList(new ArrayList<>());
        CuratorCache cache = CuratorCache.build(a, "/curator/w");
        CountDownLatch filled = new CountDownLatch(1);
        cache.listenable().addListener(CuratorCacheListener.builder().forInitialized(filled::countDown)
            .forAll((type, before, after) -> cached.add(type + " " + (after != null ? after.getPath() + "=" + text(after.getData()) : before.getPath()))).build());
        cache.start();
        filled.await(5, TimeUnit.SECONDS);
        List<String> direct = Collections.synchronizedList(new ArrayList<>());
        a.watchers().add().withMode(AddWatchMode.PERSISTENT).usingWatcher((org.apache.zookeeper.Watcher) e -> direct.add(e.getType() + " " + e.getPath())).forPath("/curator/w");
        // Let the persistent watch be set before the first change.
        a.checkExists().forPath("/curator/w");
        Thread.sleep(300);
        b.create().forPath("/curator/w/1", bytes("1"));
        Thread.sleep(150);
        b.create().forPath("/curator/w/1/2", bytes("2"));
        Thread.sleep(150);
        b.setData().forPath("/curator/w/1/2", bytes("22"));
        Thread.sleep(150);
        b.setData().forPath("/curator/w", bytes("top"));
        Thread.sleep(150);
        b.delete().deletingChildrenIfNeeded().forPath("/curator/w/1");
        Thread.sleep(400);
        System.out.println("recursive: " + seen);
        System.out.println("persistent: " + direct);
        System.out.println("cache: " + cached);
        System.out.println("cache holds " + cache.size());
        recursive.close();
        cache.close();
        step("remove watches", () -> { a.watchers().removeAll().quietly().forPath("/curator/w"); return "done"; });
        seen.clear();
        direct.clear();
        b.setData().forPath("/curator/w", bytes("unseen"));
        Thread.sleep(200);
        System.out.println("after removal: " + seen + " " + direct);
        List<String> once = Collections.synchronizedList(new ArrayList<>());
        a.getData().usingWatcher((org.apache.zookeeper.Watcher) e -> once.add(e.getType() + " " + e.getPath())).forPath("/curator/w");
        a.getChildren().usingWatcher((org.apache.zookeeper.Watcher) e -> once.add(e.getType() + " " + e.getPath())).forPath("/curator/w");
        b.delete().forPath("/curator/w");
        Thread.sleep(200);
        Collections.sort(once);
        System.out.println("once: " + once);
    }

    static void locks(CuratorFramework a, CuratorFramework b) throws Exception {
        System.out.println("# locks");
        InterProcessMutex mine = new InterProcessMutex(a, "/curator/mutex"), other = new InterProcessMutex(b, "/curator/mutex");
        step("acquire", () -> mine.acquire(2, TimeUnit.SECONDS));
        step("acquire again", () -> mine.acquire(2, TimeUnit.SECONDS));
        step("acquire by another", () -> other.acquire(300, TimeUnit.MILLISECONDS));
        step("participants", () -> mine.getParticipantNodes().size());
        mine.release();
        mine.release();
        step("acquire by another", () -> other.acquire(2, TimeUnit.SECONDS));
        other.release();
        InterProcessReadWriteLock ra = new InterProcessReadWriteLock(a, "/curator/rw"), rb = new InterProcessReadWriteLock(b, "/curator/rw");
        step("read", () -> ra.readLock().acquire(2, TimeUnit.SECONDS));
        step("read by another", () -> rb.readLock().acquire(2, TimeUnit.SECONDS));
        rb.readLock().release();
        step("write by another", () -> rb.writeLock().acquire(300, TimeUnit.MILLISECONDS));
        ra.readLock().release();
        step("write by another", () -> rb.writeLock().acquire(2, TimeUnit.SECONDS));
        rb.writeLock().release();
        InterProcessSemaphoreV2 semaphore = new InterProcessSemaphoreV2(a, "/curator/semaphore", 2);
        var first = semaphore.acquire(2, TimeUnit.SECONDS);
        var second = semaphore.acquire(2, TimeUnit.SECONDS);
        System.out.println("leases: " + (first != null) + " " + (second != null) + " " + (semaphore.acquire(300, TimeUnit.MILLISECONDS) != null));
        semaphore.returnLease(first);
        System.out.println("lease again: " + (semaphore.acquire(2, TimeUnit.SECONDS) != null));
        AtomicInteger inside = new AtomicInteger(), most = new AtomicInteger(), done = new AtomicInteger();
        List<Thread> threads = new ArrayList<>();
        for (int n = 0; n < 6; n++) {
            CuratorFramework c = n % 2 == 0 ? a : b;
            Thread t = new Thread(() -> {
                InterProcessMutex m = new InterProcessMutex(c, "/curator/contended");
                try {
                    for (int i = 0; i < 5; i++) {
                        m.acquire();
                        most.accumulateAndGet(inside.incrementAndGet(), Math::max);
                        inside.decrementAndGet();
                        done.incrementAndGet();
                        m.release();
                    }
                } catch (Exception e) {
                    System.out.println("lock: " + e);
                }
            });
            threads.add(t);
            t.start();
        }
        for (Thread t : threads) t.join();
        System.out.println("contended: " + done + " times, at most " + most + " inside");
    }

    static void leaders(CuratorFramework a, CuratorFramework b) throws Exception {
        System.out.println("# leaders");
        LeaderLatch la = new LeaderLatch(a, "/curator/latch", "a"), lb = new LeaderLatch(b, "/curator/latch", "b");
        la.start();
        System.out.println("a leads: " + la.await(5, TimeUnit.SECONDS));
        lb.start();
        System.out.println("participants: " + eventually(() -> { try { return lb.getParticipants().size() == 2; } catch (Exception e) { return false; } }));
        System.out.println("b leads: " + lb.hasLeadership() + ", leader " + lb.getLeader().getId());
        la.close();
        System.out.println("b leads: " + lb.await(5, TimeUnit.SECONDS) + ", leader " + lb.getLeader().getId());
        lb.close();
        Semaphore led = new Semaphore(0);
        List<LeaderSelector> selectors = new ArrayList<>();
        AtomicInteger at = new AtomicInteger(), most = new AtomicInteger();
        for (CuratorFramework c : List.of(a, b)) {
            LeaderSelector s = new LeaderSelector(c, "/curator/selector", new LeaderSelectorListenerAdapter() {
                @Override public void takeLeadership(CuratorFramework f) throws Exception {
                    most.accumulateAndGet(at.incrementAndGet(), Math::max);
                    Thread.sleep(50);
                    at.decrementAndGet();
                    led.release();
                }
            });
            selectors.add(s);
            s.start();
        }
        System.out.println("both led: " + led.tryAcquire(2, 5, TimeUnit.SECONDS) + ", at most " + most + " at a time");
        for (LeaderSelector s : selectors) s.close();
    }

    static void counters(CuratorFramework a, CuratorFramework b) throws Exception {
        System.out.println("# counters");
        SharedCount ca = new SharedCount(a, "/curator/count", 5), cb = new SharedCount(b, "/curator/count", 5);
        ca.start();
        cb.start();
        System.out.println("start: " + ca.getCount());
        ca.setCount(6);
        System.out.println("seen by another: " + eventually(() -> cb.getCount() == 6));
        System.out.println("compare and set: " + cb.trySetCount(cb.getVersionedValue(), 7) + " " + eventually(() -> ca.getCount() == 7));
        ca.close();
        cb.close();
        DistributedAtomicLong la = new DistributedAtomicLong(a, "/curator/long", new RetryOneTime(10)), lb = new DistributedAtomicLong(b, "/curator/long", new RetryOneTime(10));
        step("increment", () -> la.increment().postValue());
        step("add", () -> lb.add(10L).postValue());
        step("compare", () -> la.compareAndSet(11L, 100L).succeeded());
        step("compare, stale", () -> la.compareAndSet(11L, 200L).succeeded());
        step("value", () -> lb.get().postValue());
    }

    static void others(CuratorFramework a, CuratorFramework b) throws Exception {
        System.out.println("# nodes, groups, queues, barriers");
        PersistentNode node = new PersistentNode(b, CreateMode.EPHEMERAL, false, "/curator/persistent", bytes("here"));
        node.start();
        System.out.println("persistent node: " + node.waitForInitialCreate(5, TimeUnit.SECONDS));
        a.delete().forPath("/curator/persistent");
        System.out.println("comes back: " + eventually(() -> !absent(a, "/curator/persistent")));
        PersistentTtlNode ttl = new PersistentTtlNode(b, "/curator/ttlnode", 60_000, bytes("here"));
        ttl.start();
        System.out.println("ttl node: " + ttl.waitForInitialCreate(5, TimeUnit.SECONDS));
        ttl.close();
        GroupMember ga = new GroupMember(a, "/curator/group", "a", bytes("1")), gb = new GroupMember(b, "/curator/group", "b", bytes("2"));
        ga.start();
        gb.start();
        System.out.println("members: " + eventually(() -> ga.getCurrentMembers().size() == 2) + " " + new ConcurrentSkipListSet<>(ga.getCurrentMembers().keySet()));
        gb.close();
        System.out.println("one left: " + eventually(() -> ga.getCurrentMembers().size() == 1));
        ga.close();
        SimpleDistributedQueue queue = new SimpleDistributedQueue(a, "/curator/queue");
        for (String s : List.of("x", "y", "z")) queue.offer(bytes(s));
        step("queue", () -> text(queue.poll()) + text(queue.take()) + text(queue.peek()) + text(queue.remove()) + text(queue.poll()));
        DistributedBarrier barrier = new DistributedBarrier(a, "/curator/barrier");
        barrier.setBarrier();
        step("barrier held", () -> new DistributedBarrier(b, "/curator/barrier").waitOnBarrier(200, TimeUnit.MILLISECONDS));
        barrier.removeBarrier();
        step("barrier open", () -> new DistributedBarrier(b, "/curator/barrier").waitOnBarrier(2, TimeUnit.SECONDS));
        CountDownLatch both = new CountDownLatch(2);
        for (CuratorFramework c : List.of(a, b))
            new Thread(() -> {
                DistributedDoubleBarrier d = new DistributedDoubleBarrier(c, "/curator/double", 2);
                try {
                    if (d.enter(5, TimeUnit.SECONDS) && d.leave(5, TimeUnit.SECONDS)) both.countDown();
                } catch (Exception e) {
                    System.out.println("double barrier: " + e);
                }
            }).start();
        System.out.println("double barrier: " + both.await(10, TimeUnit.SECONDS));
    }

    static void access(CuratorFramework a) throws Exception {
        System.out.println("# access control");
        CuratorFramework ann = CuratorFrameworkFactory.builder().connectString(address).sessionTimeoutMs(8000).retryPolicy(new RetryOneTime(100))
            .authorization("digest", bytes("ann:pw")).namespace("curator/space").build();
        ann.start();
        step("create", () -> ann.create().creatingParentsIfNeeded().withACL(ZooDefs.Ids.CREATOR_ALL_ACL).forPath("/secret", bytes("s")));
        step("get", () -> text(ann.getData().forPath("/secret")));
        step("get by another", () -> text(a.getData().forPath("/curator/space/secret")));
        step("acl", () -> ann.getACL().forPath("/secret"));
        step("set acl", () -> show(ann.setACL().withVersion(0).withACL(ZooDefs.Ids.READ_ACL_UNSAFE).forPath("/secret")));
        step("get by another", () -> text(a.getData().forPath("/curator/space/secret")));
        step("set", () -> show(ann.setData().forPath("/secret", bytes("t"))));
        step("who", () -> { List<String> ids = new ArrayList<>(); ann.getZookeeperClient().getZooKeeper().whoAmI().forEach(i -> ids.add(i.getAuthScheme() + ":" + i.getUser())); Collections.sort(ids); return ids; });
        ann.close();
    }
}
