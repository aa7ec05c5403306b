// Changing any setting of the panel chooses "Own settings"; choosing them opens the panel.
export function start(form) {
  const panel = form.querySelector("#own-settings");
  const own = form.querySelector("input[name=preset][value=own]");
  panel.addEventListener("input", () => { own.checked = true; });
  own.addEventListener("change", () => { panel.open = true; });
  form.addEventListener("submit", () => { form.querySelector("[type=submit]").setAttribute("aria-busy", "true"); });
  addEventListener("pageshow", () => form.querySelector("[type=submit]").removeAttribute("aria-busy"));
  form.querySelector("[aria-invalid=true]")?.focus();
}
