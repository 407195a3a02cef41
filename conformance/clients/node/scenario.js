// The scenario of the real clients, spoken by node-zookeeper-client. One line per step; times and session ids never
// occur in the output, zxids are relative to the first write.
'use strict';
const zookeeper = require('node-zookeeper-client');
const { ACL, CreateMode, Exception, Id, Permission } = zookeeper;

let base = 0n;
const big = (buffer) => buffer.readBigInt64BE(0);
const rel = (buffer) => (big(buffer) === 0n ? '0' : `+${big(buffer) - base}`);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

function show(s) {
  if (!s) return 'no stat';
  const recent = BigInt(Date.now()) - big(s.ctime) < 60000n && big(s.ctime) <= big(s.mtime);
  return `czxid=${rel(s.czxid)} mzxid=${rel(s.mzxid)} pzxid=${rel(s.pzxid)} version=${s.version} cversion=${s.cversion} ` +
    `aversion=${s.aversion} ephemeral=${big(s.ephemeralOwner) !== 0n} length=${s.dataLength} children=${s.numChildren} recent=${recent}`;
}

// One call: [error name, ...results].
function call(client, method, ...args) {
  return new Promise((done) => client[method](...args, (error, ...results) => done([error ? error.name : 'OK', ...results])));
}

async function connect(address, options) {
  const client = zookeeper.createClient(address, { sessionTimeout: 8000, retries: 0, ...options });
  await new Promise((done) => { client.once('connected', done); client.connect(); });
  return client;
}

async function main() {
  const address = process.argv[2];
  const a = await connect(address);
  const create = async (c, path, data, ...more) => {
    const [error, p] = await call(c, 'create', path, data === null ? undefined : Buffer.from(data), ...more);
    console.log(`create ${path}: ${p} ${error}`);
  };
  const stat = async (c, path) => { const [e, s] = await call(c, 'exists', path); console.log(`exists ${path}: ${e} ${show(s)}`); };
  const get = async (c, path) => {
    const [e, d, s] = await call(c, 'getData', path);
    const text = d === null || d === undefined ? String(d) : d.length > 60 ? `${d.length} bytes of ${d.toString()[0]}` : JSON.stringify(d.toString());
    console.log(`get ${path}: ${text} ${e} ${show(s)}`);
  };
  const set = async (c, path, data, version) => {
    const [e, s] = await call(c, 'setData', path, Buffer.from(data), version);
    console.log(`set ${path} version ${version}: ${e} ${show(s)}`);
  };
  const remove = async (c, path, version) => { const [e] = await call(c, 'remove', path, version); console.log(`delete ${path} version ${version}: ${e}`); };
  const children = async (c, path) => {
    const [e, names, s] = await call(c, 'getChildren', path);
    console.log(`children ${path}: ${(names || []).slice().sort().join(' ')} ${e} ${show(s)}`);
  };
  const acl = async (c, path) => {
    const [e, list, s] = await call(c, 'getACL', path);
    console.log(`getACL ${path}: ${(list || []).map((x) => `${x.permission} ${x.id.scheme}:${x.id.id}`).join(', ')} ${e} ${show(s)}`);
  };
  const events = [];
  const watcher = (name) => (event) => events.push(`${name}: ${event.name} ${event.path}`);
  const flush = async () => { await wait(250); console.log('events:', events.splice(0).sort().join('; ') || 'none'); };

  console.log('# nodes');
  await create(a, '/node', 'root');
  base = big((await call(a, 'exists', '/node'))[1].czxid);
  await stat(a, '/node');
  await create(a, '/node', 'again');
  await create(a, '/node/a/b', 'no parent');
  await create(a, '/node/null', null);
  await get(a, '/node/null');
  await create(a, '/node/empty', '');
  await get(a, '/node/empty');
  await create(a, '/node/ünï-日本', 'δ');
  await get(a, '/node/ünï-日本');
  await create(a, '/node/seq-', '', CreateMode.PERSISTENT_SEQUENTIAL);
  await create(a, '/node/seq-', '', CreateMode.PERSISTENT_SEQUENTIAL);
  await create(a, '/node/eph', 'mine', CreateMode.EPHEMERAL);
  await stat(a, '/node/eph');
  await create(a, '/node/eph/child', '');
  await create(a, '/node/es-', 'mine', CreateMode.EPHEMERAL_SEQUENTIAL);
  await children(a, '/node');
  await children(a, '/node/nothing');
  let [error] = await call(a, 'mkdirp', '/node/x/y/z', Buffer.from('deep'));
  console.log(`mkdirp: ${error}`);
  await children(a, '/node/x/y');
  [error] = await call(a, 'removeRecursive', '/node/x', -1);
  console.log(`removeRecursive: ${error}`);
  await stat(a, '/node/x');

  console.log('# data and versions');
  await set(a, '/node', 'one', -1);
  await set(a, '/node', 'two', 1);
  await set(a, '/node', 'three', 1);
  await set(a, '/node/nothing', 'x', -1);
  await get(a, '/node');
  await set(a, '/node/empty', 'z'.repeat(900000), -1);
  await get(a, '/node/empty');
  await remove(a, '/node/empty', 7);
  await remove(a, '/node/empty', 1);
  await remove(a, '/node/empty', -1);
  await remove(a, '/node', -1);

  console.log('# watches');
  const b = await connect(address);
  await call(a, 'getData', '/node', watcher('data'));
  await call(a, 'exists', '/node/w', watcher('exists'));
  await call(a, 'getChildren', '/node', watcher('children'));
  await set(b, '/node', 'changed', -1);
  await flush();
  await create(b, '/node/w', '');
  await flush();
  await set(b, '/node', 'again', -1);
  await flush();
  await call(a, 'getData', '/node/w', watcher('data'));
  await call(a, 'getChildren', '/node/w', watcher('children'));
  await remove(b, '/node/w', -1);
  await flush();

  console.log('# transactions');
  const commit = async (name, transaction) => {
    const [e, results] = await new Promise((done) => transaction.commit((err, r) => done([err ? err.name : 'OK', r])));
    console.log(`transaction ${name}: ${e}`);
    (results || []).forEach((r, i) => console.log(`  ${i}: ${r.path} ${r.err} ${show(r.stat)}`));
  };
  await commit('all', a.transaction().create('/node/m', Buffer.from('1')).create('/node/m/s-', undefined, CreateMode.PERSISTENT_SEQUENTIAL)
    .setData('/node/m', Buffer.from('22'), -1).check('/node/m', 1).remove('/node/m/s-0000000000', -1));
  await get(a, '/node/m');
  await commit('none', a.transaction().create('/node/n').check('/node/m', 9).remove('/node/m', -1));
  await stat(a, '/node/n');

  console.log('# access control');
  const id = new Id('digest', 'ann:RYbu6l5aZwqon8VWmkcGvezdzfc=');
  await create(a, '/node/acl', 'secret', [new ACL(Permission.ALL, id)]);
  await get(a, '/node/acl');
  await acl(a, '/node/acl');
  a.addAuthInfo('digest', Buffer.from('ann:pw'));
  await get(a, '/node/acl');
  await acl(a, '/node/acl');
  for (const version of [0, 0]) {
    const [e, s] = await call(a, 'setACL', '/node/acl', [new ACL(Permission.READ, Id.ANYONE_ID_UNSAFE), new ACL(Permission.ALL, id)], version);
    console.log(`setACL version ${version}: ${e} ${show(s)}`);
  }
  await get(b, '/node/acl');
  await set(b, '/node/acl', 'x', -1);
  await create(a, '/node/creator', '', ACL.CREATOR_ALL_ACL);
  await acl(a, '/node/creator');
  await create(b, '/node/creator2', '', ACL.CREATOR_ALL_ACL);

  console.log('# sessions');
  await call(b, 'exists', '/node/eph', watcher('ephemeral'));
  const password = a.getSessionPassword();
  const session = a.getSessionId();
  console.log(`timeout ${a.getSessionTimeout()}, password of ${password.length} bytes, session id set: ${big(session) !== 0n}`);
  a.connectionManager.socket.destroy();  // the client library re-attaches by itself
  await new Promise((done) => a.once('connected', done));
  console.log(`same session after a broken connection: ${big(a.getSessionId()) === big(session)}`);
  await stat(a, '/node/eph');
  await flush();
  await new Promise((done) => { a.once('disconnected', done); a.close(); });
  await flush();
  await children(b, '/node');
  b.close();
}

main().then(() => setTimeout(() => process.exit(0), 300), (error) => { console.log(`failed: ${error.stack}`); process.exit(1); });
