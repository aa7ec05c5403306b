// Every page's script: starts what the page has. `start` is called again for parts that were swapped in. Imports are static, so that
// everything listens before the page counts as loaded.
import { start as startCompare } from "./compare.js";
import { start as startCurves } from "./curves.js";
import { start as startLabelDesk } from "./label-desk.js";
import { start as startLook } from "./look.js";
import { start as startNewRun } from "./new-run.js";
import { start as startPredict } from "./predict.js";
import { start as startRun } from "./run.js";
import { startAutosubmit, startCopy, startTimes } from "./small.js";
import { onSwap, startRefresh, startSwaps } from "./swap.js";
import { startTabs } from "./tabs.js";
import { start as startThreshold } from "./threshold.js";
import { startTheme } from "./theme.js";
import { start as startUpload } from "./upload-form.js";
import { start as startView } from "./view.js";

const PARTS = [
  ["[data-upload]", startUpload],
  ["[data-predict]", startPredict],
  ["[data-new-run]", startNewRun],
  ["[data-desk]", startLabelDesk],
  ["[data-curves]", startCurves],
  ["a[data-look]", startLook],
  ["[data-threshold]", startThreshold],
  ["[data-compare]", startCompare],
  ["[data-run][data-revision]", startRun],
];

function start(root) {
  startTimes(root);
  startTabs(root);
  startCopy(root);
  startAutosubmit(root);
  startRefresh(root);
  for (const [selector, begin] of PARTS) {
    for (const element of root.querySelectorAll(selector)) begin(element);
  }
}

startTheme();
startSwaps();
startView(document.querySelector("#view"));
onSwap(start);
start(document);
