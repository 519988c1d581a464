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
        const cause = row.nextElementSibling?.matches('.why') ? row.nextElementSibling : null;
        const text = (row.textContent + (cause ? cause.textContent : '')).toLowerCase();
        const on = !hidden.has(stateOf(row)) && text.includes(search.value.toLowerCase());
        row.hidden = !on;
        if (cause) cause.hidden = !on;
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
  for (const legend of document.querySelectorAll('p.legend.runs')) {
    const section = legend.closest('section');
    [...legend.querySelectorAll('.key')].forEach((key, index) => {
      key.setAttribute('role', 'button');
      key.tabIndex = 0;
      press(key, true);
      const toggle = () => press(key, !section.classList.toggle(`hide-c${index}`));
      key.addEventListener('click', toggle);
      key.addEventListener('keydown', (event) => {
        if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); toggle(); }
      });
    });
  }

  // What is under the pointer, or near it, says what it is; without the script the browser does so, later and smaller.
  const tip = make('div', '', document.body);
  tip.id = 'tip';
  tip.hidden = true;
  tip.setAttribute('aria-hidden', 'true');
  const texts = new WeakMap();
  const textOf = (element) => {
    const title = element.querySelector(':scope > title');
    if (title) { texts.set(element, title.textContent); element.setAttribute('aria-label', title.textContent); title.remove(); }
    return texts.get(element);
  };
  const nearest = (svg, x, y) => {
    const to = svg.getScreenCTM();
    let found = null, least = 16;
    for (const circle of svg.querySelectorAll('circle')) {
      if (circle.parentElement.matches('.published')) continue;
      const far = Math.hypot(circle.cx.baseVal.value * to.a + to.e - x, circle.cy.baseVal.value * to.d + to.f - y);
      if (far < least && circle.checkVisibility()) { least = far; found = circle; }
    }
    return found;
  };
  let marked = null;
  const show = (event) => {
    const svg = event.target.closest?.('svg');
    marked?.classList.remove('near');
    marked = null;
    let element = null;
    if (svg) {
      for (element = event.target; element !== svg && !textOf(element);) element = element.parentElement;
      if (element === svg || element.matches('.band, .curve, g')) element = nearest(svg, event.clientX, event.clientY)
        || (element === svg ? null : element);
    }
    const text = element && textOf(element);
    tip.hidden = !text;
    if (!text) return;
    if (element.matches('circle')) { marked = element; marked.classList.add('near'); }
    tip.textContent = text;
    const right = event.clientX + 14 + tip.offsetWidth > innerWidth;
    tip.style.left = `${Math.max(4, right ? event.clientX - 14 - tip.offsetWidth : event.clientX + 14)}px`;
    tip.style.top = `${Math.max(4, event.clientY - 12 - tip.offsetHeight)}px`;
  };
  document.addEventListener('pointermove', show);
  document.addEventListener('pointerdown', show);
  document.addEventListener('scroll', () => { tip.hidden = true; }, { passive: true });

  // The navigation marks the section in sight.
  const links = [...document.querySelectorAll('nav a')];
  if (links.length) {
    const linkOf = new Map();
    for (const link of links) {
      const target = document.getElementById(link.getAttribute('href').slice(1));
      if (target) linkOf.set(target.closest('section'), link);
    }
    const inSight = new Set();
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) entry.isIntersecting ? inSight.add(entry.target) : inSight.delete(entry.target);
      const current = linkOf.get([...linkOf.keys()].find((section) => inSight.has(section)));
      for (const link of links) link === current ? link.setAttribute('aria-current', 'true') : link.removeAttribute('aria-current');
    }, { rootMargin: '-60px 0px -60% 0px' });
    for (const section of linkOf.keys()) watch.observe(section);
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
