// The pictures of videos made from this browser, kept in it: the service hands out no picture that
// was sent, and without a list of its own the page would forget what it made.

const NAME = "framepack";
const STORE = "made";
const MOST = 60;

let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const asking = indexedDB.open(NAME, 1);
    asking.onupgradeneeded = () => asking.result.createObjectStore(STORE, { keyPath: "id" });
    asking.onsuccess = () => resolve(asking.result);
    asking.onerror = () => reject(asking.error);
  });
  return opened;
}

async function through(mode, work) {
  const database = await open();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, mode);
    const asked = work(transaction.objectStore(STORE));
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onerror = () => reject(transaction.error);
  });
}

/** Everything kept, newest first: `{id, at, prompt, picture}`. Empty where nothing can be kept. */
export async function kept() {
  try {
    const all = await through("readonly", (store) => store.getAll());
    return all.sort((one, other) => other.at - one.at);
  } catch {
    return [];
  }
}

export async function pictureOf(id) {
  try {
    return (await through("readonly", (store) => store.get(id)))?.picture ?? null;
  } catch {
    return null;
  }
}

/** Keep a picture with its job; a browser that keeps nothing still makes videos. */
export async function keep(entry) {
  try {
    await through("readwrite", (store) => store.put(entry));
    for (const old of (await kept()).slice(MOST)) await drop(old.id);
  } catch {
    // Private windows and full disks: the list is then what the service tells.
  }
}

export async function drop(id) {
  try {
    await through("readwrite", (store) => store.delete(id));
  } catch {
    // What was never kept is gone already.
  }
}
