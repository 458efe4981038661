// Keys, theme, and what forms remember. Pages work without it.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const cookie = (name, value) => {
    document.cookie = `${name}=${encodeURIComponent(value)}; path=/; max-age=31536000; samesite=strict`;
  };

  const turnTheme = () => {
    const order = ["", "light", "dark"];
    const next = order[(order.indexOf(document.documentElement.dataset.theme || "") + 1) % 3];
    if (next) document.documentElement.dataset.theme = next; else delete document.documentElement.dataset.theme;
    cookie("theme", next);
    document.querySelector("#theme span").textContent = next || "auto";
  };
  const help = () => { const dialog = document.querySelector("#help"); if (!dialog.open) dialog.showModal(); };

  const move = (by) => {
    const links = all("[data-row] [data-open]").filter((link) => link.getClientRects().length);
    if (!links.length) return;
    const row = document.activeElement.closest("[data-row]");
    const at = row ? links.findIndex((link) => row.contains(link)) : by > 0 ? -1 : links.length;
    links[Math.max(0, Math.min(links.length - 1, at + by))].focus();
  };
  const follow = (key) => document.querySelector(`[data-key="${key}"]`)?.click();
  const grade = () => { const first = document.querySelector(".give input[name=score]:checked, .give input[name=score]"); first?.focus(); first?.scrollIntoView({block: "center"}); };
  const actions = {
    "j": () => move(1), "k": () => move(-1), "n": () => follow("n"), "p": () => follow("p"), "u": () => follow("u"), "r": () => follow("r"),
    "c": () => document.querySelector("#calls [data-open]")?.focus(), "g": grade, "t": turnTheme, "?": help,
    "/": () => document.querySelector("[data-search]")?.focus(),
  };
  document.addEventListener("keydown", (event) => {
    const place = event.target;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && place.form?.classList.contains("give")) { place.form.requestSubmit(); return; }
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (place.matches("textarea, select, input:not([type=radio]):not([type=checkbox])")) { if (event.key === "Escape") place.blur(); return; }
    if (/^[0-7]$/.test(event.key) && place.matches("input[name=score]")) {
      const choice = document.querySelector(`.give input[name=score][value="${event.key}"]`);
      choice.checked = true; choice.focus(); event.preventDefault(); return;
    }
    if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest("#theme")) turnTheme();
    if (event.target.closest("#keys")) help();
    const edit = event.target.closest("[data-edit]");
    if (edit) {
      const form = document.querySelector(".give");
      form.elements.note.value = edit.dataset.note; form.elements.grader.value = edit.dataset.grader;
      form.querySelector(`input[name=score][value="${edit.dataset.score}"]`).checked = true; grade();
    }
  });
  document.addEventListener("change", (event) => {
    const form = event.target.closest("[data-pick]");
    if (!form || !event.target.matches("[data-side]")) return;
    const chosen = all("[data-side]:checked", form);
    if (chosen.length > 2) { event.target.checked = false; return; }
    form.elements.a.value = chosen[0]?.dataset.side || ""; form.elements.b.value = chosen[1]?.dataset.side || "";
    form.querySelector("[data-compare]").disabled = chosen.length !== 2;
  });
  document.addEventListener("submit", (event) => {
    if (event.target.matches(".give")) cookie("grader", event.target.elements.grader.value.trim());
  }, true);

  const trouble = (text) => { const place = document.querySelector("#trouble"); place.textContent = text; place.hidden = false; setTimeout(() => { place.hidden = true; }, 8000); };
  document.addEventListener("htmx:responseError", (event) => {
    const page = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
    trouble(page.querySelector("main .card")?.textContent || `The viewer answered ${event.detail.xhr.status}.`);
  });
  document.addEventListener("htmx:sendError", () => trouble("The viewer does not answer; is it still running?"));
  document.addEventListener("htmx:afterSwap", () => setFormulas(document));
  document.addEventListener("htmx:load", () => setFormulas(document));
})();
