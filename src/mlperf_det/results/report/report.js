// Conveniences on top of a page that is complete without them. Nothing is loaded or stored.
'use strict';
(() => {
  const make = (name, text, parent) => {
    const element = document.createElement(name);
    if (text) element.textContent = text;
    parent.append(element);
    return element;
  };
  const press = (button, on) => button.setAttribute('aria-pressed', String(on));

  // Overview: show only some states, or groups whose line contains a text.
  const overview = document.getElementById('overview');
  if (overview) {
    const rows = [...overview.querySelectorAll('tbody tr:not(.why)')];
    const stateOf = (row) => row.querySelector('.state').textContent.slice(2);
    const hidden = new Set();
    const bar = document.createElement('div');
    bar.className = 'toolbar';
    overview.querySelector('h2').after(bar);
    const count = document.createElement('span');
    const search = document.createElement('input');
    const apply = () => {
      let shown = 0;
      for (const row of rows) {
        const cause = row.nextElementSibling;
        const text = (row.textContent + cause.textContent).toLowerCase();
        const on = !hidden.has(stateOf(row)) && text.includes(search.value.toLowerCase());
        row.hidden = cause.hidden = !on;
        const heading = document.getElementById(row.querySelector('a').getAttribute('href').slice(1));
        if (heading) heading.closest('section').hidden = !on;
        shown += on;
      }
      count.textContent = `${shown} of ${rows.length} groups`;
    };
    for (const state of new Set(rows.map(stateOf))) {
      const button = make('button', state, bar);
      button.type = 'button';
      press(button, true);
      button.addEventListener('click', () => {
        hidden.has(state) ? hidden.delete(state) : hidden.add(state);
        press(button, !hidden.has(state));
        apply();
      });
    }
    search.type = 'search';
    search.placeholder = 'filter groups';
    search.setAttribute('aria-label', 'filter groups');
    search.addEventListener('input', apply);
    bar.append(search, count);
    apply();
  }

  // Key to the runs: hide and show the curves of a run.
  for (const legend of document.querySelectorAll('section > p.legend')) {
    [...legend.querySelectorAll('.key')].forEach((key, index) => {
      key.setAttribute('role', 'button');
      key.tabIndex = 0;
      press(key, true);
      const toggle = () => press(key, !legend.parentElement.classList.toggle(`hide-c${index}`));
      key.addEventListener('click', toggle);
      key.addEventListener('keydown', (event) => {
        if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); toggle(); }
      });
    });
  }

  // A chart takes the whole width when it is double-clicked, or by its button.
  const enlarge = (figure) => figure.classList.toggle('large');
  document.addEventListener('dblclick', (event) => {
    const figure = event.target.closest('.charts > figure');
    if (figure) enlarge(figure);
  });
  for (const figure of document.querySelectorAll('section:not(.many) > .charts > figure')) {
    const button = make('button', 'enlarge', figure);
    button.type = 'button';
    button.className = 'enlarge';
    button.addEventListener('click', () => { button.textContent = enlarge(figure) ? 'reduce' : 'enlarge'; });
  }
})();
