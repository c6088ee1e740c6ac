// The dialog for the access key.

import { access, listeners } from "./api.js";
import { byId, tell } from "./dom.js";

/** A link may bring a key behind its #, which no browser sends to anybody; it does not stay in the address. */
function useGivenKey() {
  const given = /^#key=(\w+)$/.exec(location.hash);
  if (!given) return;
  access.use(given[1], false);
  history.replaceState(null, "", location.pathname);
}

/** `onKey()` after a key was entered or forgotten. */
export function installAccess(onKey) {
  const dialog = byId("access");
  const open = (message = "") => {
    byId("open-access").hidden = false;
    tell(byId("error-key"), message);
    byId("remember").checked = access.remembered;
    byId("forget").hidden = !access.key;
    if (!dialog.open) dialog.showModal();
    byId("key").focus();
  };
  useGivenKey();
  byId("open-access").hidden = !access.key;
  byId("open-access").addEventListener("click", () => open());
  byId("close-access").addEventListener("click", () => dialog.close());
  byId("forget").addEventListener("click", () => {
    access.forget();
    byId("key").value = "";
    dialog.close();
    onKey();
  });
  byId("access-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = byId("key").value.trim();
    if (!key) {
      tell(byId("error-key"), "Enter the key, or cancel.");
      return;
    }
    access.use(key, byId("remember").checked);
    byId("key").value = "";
    dialog.close();
    onKey();
  });
  listeners.onKeyWanted = (refused) => {
    open(refused ? "The service does not know this key. Check it, or ask for a new one." : "");
  };
}
