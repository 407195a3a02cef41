import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.List;
import java.util.TreeMap;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hbase.HBaseConfiguration;
import org.apache.hadoop.hbase.HRegionLocation;
import org.apache.hadoop.hbase.ServerName;
import org.apache.hadoop.hbase.TableName;
import org.apache.hadoop.hbase.client.Admin;
import org.apache.hadoop.hbase.client.ColumnFamilyDescriptorBuilder;
import org.apache.hadoop.hbase.client.Connection;
import org.apache.hadoop.hbase.client.ConnectionFactory;
import org.apache.hadoop.hbase.client.Put;
import org.apache.hadoop.hbase.client.RegionInfoBuilder;
import org.apache.hadoop.hbase.client.Result;
import org.apache.hadoop.hbase.client.ResultScanner;
import org.apache.hadoop.hbase.client.Scan;
import org.apache.hadoop.hbase.client.Table;
import org.apache.hadoop.hbase.client.TableDescriptorBuilder;
import org.apache.hadoop.hbase.replication.ReplicationPeerConfig;

/**
 * An HBase client that does what it is told on standard input, one command per line, and answers each with one line
 * on standard output: "ok ..." or "error ...". It remembers which rows the cluster acknowledged.
 */
public final class HBaseDriver {
    private static final byte[] FAMILY = bytes("f");
    private static final byte[] QUALIFIER = bytes("q");

    private final Connection connection;
    private final Admin admin;
    private final TableName name = TableName.valueOf("rows");
    private final BitSet acknowledged = new BitSet();
    private Thread writer;
    private volatile boolean writing;
    private String writerError = "none";
    private long lastAck;
    private long longestGap;

    private HBaseDriver(Connection connection) throws Exception {
        this.connection = connection;
        this.admin = connection.getAdmin();
    }

    public static void main(String[] arguments) throws Exception {
        Configuration configuration = HBaseConfiguration.create();
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        try (Connection connection = ConnectionFactory.createConnection(configuration)) {
            HBaseDriver driver = new HBaseDriver(connection);
            for (String line = commands.readLine(); line != null; line = commands.readLine()) {
                String answer;
                try {
                    answer = "ok " + driver.execute(line.trim().split(" +"));
                } catch (Exception | Error problem) {
                    answer = "error " + problem.toString().replace('\n', ' ');
                }
                System.out.println(answer);
                System.out.flush();
            }
        }
    }

    private String execute(String[] words) throws Exception {
        switch (words[0]) {
            case "create": return create(Integer.parseInt(words[1]));
            case "put": return put(Integer.parseInt(words[1]), Integer.parseInt(words[2]));
            case "write": return startWriter();
            case "progress": return progress();
            case "stop": return stopWriter();
            case "verify": return verify();
            case "regions": return regions();
            case "meta": return metaServer();
            case "move": return move(words[1], words[2]);
            case "flush": admin.flush(name); return "";
            case "snapshot": admin.snapshot(words[1], name); return "" + admin.listSnapshots().size();
            case "peer": return addPeer(words[1], words[2]);
            case "unpeer": admin.removeReplicationPeer(words[1]); return "";
            case "master": return admin.getMaster().toString();
            case "shutdown": admin.shutdown(); return "";
            default: throw new IllegalArgumentException(words[0]);
        }
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    /** Rows spread over all regions: the reversed decimal digits of the number. */
    private static byte[] row(int number) {
        return bytes(new StringBuilder(String.format("%08d", number)).reverse().toString());
    }

    private static Put valueFor(int number) {
        return new Put(row(number)).addColumn(FAMILY, QUALIFIER, bytes("value-" + number));
    }

    private String create(int regions) throws Exception {
        byte[][] splits = new byte[regions - 1][];
        for (int i = 1; i < regions; i++) {
            splits[i - 1] = bytes(Integer.toString(10 * i / regions));
        }
        admin.createTable(TableDescriptorBuilder.newBuilder(name)
            .setColumnFamily(ColumnFamilyDescriptorBuilder.of(FAMILY)).build(), splits);
        return regions();
    }

    private String put(int first, int count) throws Exception {
        try (Table table = connection.getTable(name)) {
            for (int from = first; from < first + count; from += 1000) {
                int to = Math.min(from + 1000, first + count);
                List<Put> batch = new ArrayList<>();
                for (int number = from; number < to; number++) {
                    batch.add(valueFor(number));
                }
                table.put(batch);
                synchronized (acknowledged) {
                    acknowledged.set(from, to);
                }
            }
        }
        return "" + count;
    }

    /** Writes single rows, from the first one behind all acknowledged ones, until stopped. */
    private String startWriter() {
        int first = acknowledged.length();
        writing = true;
        lastAck = System.nanoTime();
        writer = new Thread(() -> {
            try (Table table = connection.getTable(name)) {
                for (int number = first; writing; number++) {
                    table.put(valueFor(number));
                    synchronized (acknowledged) {
                        acknowledged.set(number);
                        long now = System.nanoTime();
                        longestGap = Math.max(longestGap, now - lastAck);
                        lastAck = now;
                    }
                    Thread.sleep(3);
                }
            } catch (Exception problem) {
                writerError = problem.toString().replace('\n', ' ');
            }
        });
        writer.setDaemon(true);
        writer.start();
        return "";
    }

    /** Acknowledged rows so far, and the longest pause in ms since this was asked last. */
    private String progress() {
        synchronized (acknowledged) {
            long gap = Math.max(longestGap, System.nanoTime() - lastAck) / 1_000_000;
            longestGap = 0;
            return acknowledged.cardinality() + " " + gap;
        }
    }

    private String stopWriter() throws Exception {
        writing = false;
        writer.join(120_000);
        return (writer.isAlive() ? "hangs" : "ended") + " " + writerError;
    }

    /** Rows found, acknowledged rows, acknowledged rows that are missing, rows with a wrong value. */
    private String verify() throws Exception {
        BitSet expected;
        synchronized (acknowledged) {
            expected = (BitSet) acknowledged.clone();
        }
        BitSet found = new BitSet();
        int wrong = 0;
        try (Table table = connection.getTable(name);
             ResultScanner scanner = table.getScanner(new Scan().setCaching(1000))) {
            for (Result result : scanner) {
                String key = new String(result.getRow(), StandardCharsets.UTF_8);
                int number = Integer.parseInt(new StringBuilder(key).reverse().toString());
                found.set(number);
                if (!Arrays.equals(result.getValue(FAMILY, QUALIFIER), bytes("value-" + number))) {
                    wrong++;
                }
            }
        }
        BitSet lost = (BitSet) expected.clone();
        lost.andNot(found);
        return found.cardinality() + " " + expected.cardinality() + " " + lost.cardinality() + " " + wrong;
    }

    /** "region=server" for each region of the table; "region=none" while it is nowhere. */
    private String regions() throws Exception {
        TreeMap<String, String> places = new TreeMap<>();
        for (HRegionLocation location : connection.getRegionLocator(name).getAllRegionLocations()) {
            ServerName server = location.getServerName();
            places.put(location.getRegion().getEncodedName(), server == null ? "none" : server.toString());
        }
        StringBuilder text = new StringBuilder();
        places.forEach((region, server) -> text.append(region).append('=').append(server).append(' '));
        connection.getRegionLocator(name).clearRegionLocationCache();
        return text.toString().trim();
    }

    private String metaServer() throws Exception {
        return connection.getRegionLocator(TableName.META_TABLE_NAME)
            .getRegionLocation(new byte[0], 0, true).getServerName().toString();
    }

    private String move(String region, String server) throws Exception {
        byte[] encoded = region.equals("meta")
            ? RegionInfoBuilder.FIRST_META_REGIONINFO.getEncodedNameAsBytes() : bytes(region);
        admin.move(encoded, ServerName.valueOf(server));
        return "";
    }

    private String addPeer(String id, String clusterKey) throws Exception {
        admin.addReplicationPeer(id, ReplicationPeerConfig.newBuilder().setClusterKey(clusterKey).build(), false);
        return "";
    }
}
