// Every page's script: starts what the page has. `start` is called again for parts that were swapped in.
import { startCopy, startAutosubmit, startTimes } from "./small.js";
import { startRefresh, startSwaps, onSwap } from "./swap.js";
import { startTabs } from "./tabs.js";
import { startTheme } from "./theme.js";

// What only some pages need is loaded when it is there.
const RARE = [
  ["[data-upload]", () => import("./upload-form.js")],
  ["[data-predict]", () => import("./predict.js")],
  ["[data-new-run]", () => import("./new-run.js")],
  ["[data-curves]", () => import("./curves.js")],
  ["[data-run]", () => import("./run.js")],
];

async function start(root) {
  startTimes(root);
  startTabs(root);
  startCopy(root);
  startAutosubmit(root);
  startRefresh(root);
  for (const [selector, load] of RARE) {
    for (const element of root.querySelectorAll(selector)) (await load()).start(element);
  }
}

startTheme();
startSwaps();
onSwap(start);
start(document);
